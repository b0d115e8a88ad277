//! BERT and RoBERTa: attention in both directions, GeLU, LayerNorm after each residual.
//!
//! A norm's gain and bias act on the residual stream itself. A layer therefore passes on the normalised rows h, and the
//! next residual is gain ∘ h + bias beside the block's last matrix, under one truncation.

use crate::algebra::{Act, Algebra};
use crate::attention::attend;
use crate::model::{Layer, Pass};
use protocol::Result;

pub(crate) async fn layer<A: Algebra>(a: &A, layer: &Layer<A::V>, h: Act<A>, pass: &Pass) -> Result<Act<A>> {
    let (attention, feed_forward) = (a.scope("attention"), a.scope("feed_forward"));
    let gains = layer.attention_gain.as_ref().zip(layer.feed_forward_gain.as_ref());
    let (attention_gain, feed_forward_gain) = gains.expect("a BERT has gains beside its residuals");

    let mut forgotten: Vec<_> = pass.spans.iter().map(|_| None).collect();
    let (mut kept, shape) = (forgotten.iter_mut().collect::<Vec<_>>(), &pass.attention);
    let heads = attend(&attention, &h, &layer.qkv, None, &mut kept, shape, &layer.softmax).await?;
    let x = attention.scope("o").linear_beside(&heads, &layer.o, &h, attention_gain).await?;
    let h = attention.scope("norm").norm(&x, &layer.attention_norm).await?;

    let a = &feed_forward;
    let up = a.scope("activation").activate(&h, &layer.up, &layer.activation).await?;
    let x = a.scope("down").linear_beside(&up, &layer.down, &h, feed_forward_gain).await?;
    a.scope("norm").norm(&x, &layer.feed_forward_norm).await
}
