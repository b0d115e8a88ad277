//! Side by side: futures that share exchanges.

use crate::Result;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

/// Runs two parts of a program at the same time; their exchanges travel together.
pub async fn join<A, B>(
    a: impl Future<Output = Result<A>>,
    b: impl Future<Output = Result<B>>,
) -> Result<(A, B)> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut ra, mut rb) = (None, None);
    poll_fn(move |cx| {
        if ra.is_none()
            && let Poll::Ready(r) = a.as_mut().poll(cx)
        {
            ra = Some(r?);
        }
        if rb.is_none()
            && let Poll::Ready(r) = b.as_mut().poll(cx)
        {
            rb = Some(r?);
        }
        match (ra.take(), rb.take()) {
            (Some(x), Some(y)) => Poll::Ready(Ok((x, y))),
            (x, y) => {
                (ra, rb) = (x, y);
                Poll::Pending
            }
        }
    })
    .await
}

/// Runs many parts of one kind at the same time, in the given order.
pub async fn join_all<T, F: Future<Output = Result<T>>>(
    parts: impl IntoIterator<Item = F>,
) -> Result<Vec<T>> {
    let mut parts: Vec<Pin<Box<F>>> = parts.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = parts.iter().map(|_| None).collect();
    poll_fn(move |cx| {
        for (p, d) in parts.iter_mut().zip(&mut done) {
            if d.is_none()
                && let Poll::Ready(r) = p.as_mut().poll(cx)
            {
                *d = Some(r?);
            }
        }
        if done.iter().all(Option::is_some) {
            Poll::Ready(Ok(done.iter_mut().filter_map(Option::take).collect()))
        } else {
            Poll::Pending
        }
    })
    .await
}
