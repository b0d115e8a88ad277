//! The LLaMA family: RMSNorm before each block, rotary grouped-query attention, SwiGLU, residuals.

use crate::algebra::{Act, Algebra};
use crate::attention::attend;
use crate::model::{Kept, Layer, Pass};
use protocol::Result;

pub(crate) async fn layer<A: Algebra>(
    a: &A,
    layer: &Layer<A::V>,
    x: Act<A>,
    kept: &mut [&mut Kept<A::V>],
    pass: &Pass,
) -> Result<Act<A>> {
    let (attention, feed_forward) = (a.scope("attention"), a.scope("feed_forward"));
    let rotation = pass.rotation.as_ref();

    let h = attention.scope("norm").norm(&x, &layer.attention_norm).await?;
    let heads = attend(&attention, &h, &layer.qkv, rotation, kept, &pass.attention, &layer.softmax).await?;
    let x = a.add(&x, &attention.scope("o").linear(&heads, &layer.o).await?);

    let a = &feed_forward;
    let h = a.scope("norm").norm(&x, &layer.feed_forward_norm).await?;
    let h = a.scope("activation").gated(&h, &layer.up, &layer.activation).await?;
    Ok(a.add(&x, &a.scope("down").linear(&h, &layer.down).await?))
}
