use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::FileError;

/// A small text file.
pub(super) fn read_text(path: &Path, most: u64) -> Result<String, FileError> {
    let io = |e| FileError::io(path, e);
    let mut text = String::new();
    File::open(path).map_err(io)?.take(most + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > most {
        return Err(FileError::broken(path, format!("it is longer than {most} bytes")));
    }
    Ok(text)
}
