use super::{TensorType, k_quants};

/// Appends the weights held by whole blocks of `bytes`; a part of a block at the end is left out.
pub(super) fn append(tensor_type: TensorType, bytes: &[u8], out: &mut Vec<f32>) {
    match tensor_type {
        TensorType::F32 => out.extend(chunks::<4>(bytes).map(|c| f32::from_le_bytes(*c))),
        TensorType::F64 => out.extend(chunks::<8>(bytes).map(|c| f64::from_le_bytes(*c) as f32)),
        TensorType::F16 => out.extend(chunks::<2>(bytes).map(|c| f16_to_f32(u16::from_le_bytes(*c)))),
        TensorType::Bf16 => {
            out.extend(chunks::<2>(bytes).map(|c| f32::from_bits(u32::from(u16::from_le_bytes(*c)) << 16)))
        }
        TensorType::Q4_0 => {
            for block in chunks::<18>(bytes) {
                let scale = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
                out.extend(block[2..].iter().map(|q| (f32::from(q & 15) - 8.0) * scale));
                out.extend(block[2..].iter().map(|q| (f32::from(q >> 4) - 8.0) * scale));
            }
        }
        TensorType::Q4_1 => {
            for block in chunks::<20>(bytes) {
                let scale = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
                let least = f16_to_f32(u16::from_le_bytes([block[2], block[3]]));
                out.extend(block[4..].iter().map(|q| f32::from(q & 15) * scale + least));
                out.extend(block[4..].iter().map(|q| f32::from(q >> 4) * scale + least));
            }
        }
        TensorType::Q5_0 => chunks(bytes).for_each(|block| k_quants::q5_0(block, out)),
        TensorType::Q5_1 => chunks(bytes).for_each(|block| k_quants::q5_1(block, out)),
        TensorType::Q2K => chunks(bytes).for_each(|block| k_quants::q2_k(block, out)),
        TensorType::Q3K => chunks(bytes).for_each(|block| k_quants::q3_k(block, out)),
        TensorType::Q4K => chunks(bytes).for_each(|block| k_quants::q4_k(block, out)),
        TensorType::Q5K => chunks(bytes).for_each(|block| k_quants::q5_k(block, out)),
        TensorType::Q6K => chunks(bytes).for_each(|block| k_quants::q6_k(block, out)),
        TensorType::Q8_0 => {
            for block in chunks::<34>(bytes) {
                let scale = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
                out.extend(block[2..].iter().map(|q| f32::from(q.cast_signed()) * scale));
            }
        }
    }
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = &[u8; N]> {
    bytes.as_chunks::<N>().0.iter()
}

/// Exact widening of an IEEE half-precision number.
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let exponent = u32::from(half >> 10) & 0x1f;
    let mantissa = u32::from(half) & 0x3ff;
    match exponent {
        // Subnormal: mantissa * 2^-24, which f32 holds exactly.
        0 => {
            let size = mantissa as f32 * f32::from_bits((127 - 24) << 23);
            f32::from_bits(size.to_bits() | sign)
        }
        0x1f => f32::from_bits(sign | 0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits(sign | (exponent + 127 - 15) << 23 | mantissa << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_exactly() {
        for half in 0..=u16::MAX {
            let sign = if half >> 15 == 1 { -1.0 } else { 1.0 };
            let (e, m) = (i32::from(half >> 10 & 31), f64::from(half & 1023));
            let expected = sign
                * match e {
                    0 => m / 1024.0 * 2f64.powi(-14),
                    31 if m == 0.0 => f64::INFINITY,
                    31 => f64::NAN,
                    _ => (1.0 + m / 1024.0) * 2f64.powi(e - 15),
                };
            let found = f64::from(f16_to_f32(half));
            assert!(
                found == expected || found.is_nan() && expected.is_nan(),
                "{half:04x}: {found} {expected}"
            );
            if expected == 0.0 {
                assert_eq!(found.is_sign_negative(), sign < 0.0);
            }
        }
    }

    #[test]
    fn blocks_by_hand() {
        // 1.5 = 0x3e00, -0.5 = 0xb800.
        let nibbles: [u8; 16] = std::array::from_fn(|i| i as u8 | (15 - i as u8) << 4);
        let mut out = Vec::new();
        append(TensorType::Q4_0, &[&[0x00, 0x3e][..], &nibbles].concat(), &mut out);
        append(TensorType::Q4_1, &[&[0x00, 0x3e, 0x00, 0xb8][..], &nibbles].concat(), &mut out);
        for i in 0..16 {
            assert_eq!(out[i], (i as f32 - 8.0) * 1.5);
            assert_eq!(out[16 + i], (7.0 - i as f32) * 1.5);
            assert_eq!(out[32 + i], i as f32 * 1.5 - 0.5);
            assert_eq!(out[48 + i], (15.0 - i as f32) * 1.5 - 0.5);
        }
        let bytes: [u8; 32] = std::array::from_fn(|i| (i as u8 * 8).wrapping_add(128));
        out.clear();
        append(TensorType::Q8_0, &[&[0x00, 0xb8][..], &bytes].concat(), &mut out);
        assert_eq!((out[0], out[16], out[31]), (64.0, -0.0, -60.0));
        out.clear();
        append(TensorType::Bf16, &[0xc0, 0x3f, 0x20, 0xc1], &mut out);
        append(TensorType::F64, &(-2.25f64).to_le_bytes(), &mut out);
        append(TensorType::F16, &[0x00, 0x3e], &mut out);
        append(TensorType::F32, &0.1f32.to_le_bytes(), &mut out);
        assert_eq!(out, [1.5, -10.0, -2.25, 1.5, 0.1]);
    }
}
