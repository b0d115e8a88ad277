use super::{Tokenizer, TokenizerError};

/// Decodes ids as they come and gives out whole characters only: bytes that may still become a
/// character wait for the next id.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Whether a piece has come before, from which the next word is separated.
    begun: bool,
    pending: Vec<u8>,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, begun: false, pending: Vec::new() }
    }

    /// Takes one id; gives the text that is now certain, if there is any.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        let (bytes, special) = self.tokenizer.piece(id)?;
        if !(special && self.skip_special) {
            let spare = self.tokenizer.spaced && !self.begun;
            let bytes = bytes.strip_prefix(b" ").filter(|_| spare).unwrap_or(bytes);
            self.pending.extend_from_slice(bytes);
            self.begun = true;
        }
        let mut text = String::new();
        let mut start = 0;
        loop {
            match std::str::from_utf8(&self.pending[start..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    start = self.pending.len();
                    break;
                }
                Err(error) => {
                    let (valid, after) = self.pending[start..].split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    start += valid.len();
                    // Without a length, the bytes at the end are the beginning of a character.
                    let Some(broken) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    start += broken.min(after.len());
                }
            }
        }
        self.pending.drain(..start);
        Ok((!text.is_empty()).then_some(text))
    }

    /// Ends the text: what is still waiting will not become a character any more.
    pub fn finish(self) -> Option<String> {
        (!self.pending.is_empty()).then(|| String::from_utf8_lossy(&self.pending).into_owned())
    }
}
