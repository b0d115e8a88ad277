use std::fmt;

/// The ways of storing weights that are understood here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TensorType {
    /// 32-bit floats.
    F32,
    /// 64-bit floats, rounded to 32 bits when read.
    F64,
    /// IEEE half precision.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// Blocks of 32: an f16 scale, 4-bit integers less 8.
    Q4_0,
    /// Blocks of 32: an f16 scale and minimum, 4-bit integers.
    Q4_1,
    /// Blocks of 32: an f16 scale, 5-bit integers less 16.
    Q5_0,
    /// Blocks of 32: an f16 scale and minimum, 5-bit integers.
    Q5_1,
    /// Blocks of 32: an f16 scale, 8-bit signed integers.
    Q8_0,
    /// Blocks of 256: 2-bit integers, 4-bit scales and minima for each 16.
    Q2K,
    /// Blocks of 256: 3-bit integers, 6-bit scales for each 16.
    Q3K,
    /// Blocks of 256: 4-bit integers, 6-bit scales and minima for each 32.
    Q4K,
    /// Blocks of 256: 5-bit integers, 6-bit scales and minima for each 32.
    Q5K,
    /// Blocks of 256: 6-bit integers, 8-bit scales for each 16.
    Q6K,
}

impl TensorType {
    /// All supported types.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::F64,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The type with this number in the file format, where it is supported.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.code() == code)
    }

    /// The type's number in the file format.
    pub fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::F64 => 28,
            Self::Bf16 => 30,
        }
    }

    /// Weights per block.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F64 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 4 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q2K => 16 + 64 + 4,
            Self::Q3K => 32 + 64 + 12 + 2,
            Self::Q4K => 4 + 12 + 128,
            Self::Q5K => 4 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    pub(super) fn supported_names() -> String {
        Self::ALL.map(|t| t.to_string()).join(", ")
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&code_name(self.code()))
    }
}

/// The name ggml gives to a type number, supported here or not.
pub(super) fn code_name(code: u32) -> String {
    let name = match code {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        8 => "Q8_0",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        30 => "BF16",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("type number {code}"),
    };
    name.to_owned()
}
