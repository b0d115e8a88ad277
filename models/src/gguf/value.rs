use std::fmt;

/// A metadata value. The widths that the file format knows are widened to 64 bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// u8, u16, u32 or u64.
    Unsigned(u64),
    /// i8, i16, i32 or i64.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list of values of one type.
    Array(Array),
}

/// A list of values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// u8, u16, u32 or u64.
    Unsigned(Vec<u64>),
    /// i8, i16, i32 or i64.
    Signed(Vec<i64>),
    /// f32 or f64.
    Float(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Strings.
    Text(Vec<String>),
    /// Lists.
    Nested(Vec<Array>),
}

impl Value {
    /// The value as an unsigned number, if it is an integer and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(v) => Some(*v),
            Self::Signed(v) => u64::try_from(*v).ok(),
            _ => None,
        }
    }

    /// What kind of value this is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(v) if *v < 0 => "a negative integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a truth value",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(v) => v.fmt(f),
            Self::Signed(v) => v.fmt(f),
            Self::Float(v) => v.fmt(f),
            Self::Bool(v) => v.fmt(f),
            Self::Text(v) => write!(f, "{v:?}"),
            Self::Array(_) => f.write_str("an array"),
        }
    }
}

/// A type that a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// The type in words, for error messages.
    const WANTED: &'static str;
    /// The value as this type, where it is one.
    fn from_value(value: &'a Value) -> Option<Self>;
}

impl<'a> FromValue<'a> for u64 {
    const WANTED: &'static str = "a non-negative integer";
    fn from_value(value: &'a Value) -> Option<Self> {
        value.as_u64()
    }
}

impl<'a> FromValue<'a> for u32 {
    const WANTED: &'static str = "a non-negative 32-bit integer";
    fn from_value(value: &'a Value) -> Option<Self> {
        value.as_u64().and_then(|v| v.try_into().ok())
    }
}

impl<'a> FromValue<'a> for f64 {
    const WANTED: &'static str = "a float";
    fn from_value(value: &'a Value) -> Option<Self> {
        if let Value::Float(v) = value { Some(*v) } else { None }
    }
}

impl<'a> FromValue<'a> for bool {
    const WANTED: &'static str = "a truth value";
    fn from_value(value: &'a Value) -> Option<Self> {
        if let Value::Bool(v) = value { Some(*v) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const WANTED: &'static str = "a string";
    fn from_value(value: &'a Value) -> Option<Self> {
        if let Value::Text(v) = value { Some(v) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a [String] {
    const WANTED: &'static str = "an array of strings";
    fn from_value(value: &'a Value) -> Option<Self> {
        if let Value::Array(Array::Text(v)) = value { Some(v) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a [i64] {
    const WANTED: &'static str = "an array of signed integers";
    fn from_value(value: &'a Value) -> Option<Self> {
        if let Value::Array(Array::Signed(v)) = value { Some(v) } else { None }
    }
}
