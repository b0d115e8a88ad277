//! BERT's WordPiece: words are cut into the longest entries of the vocabulary from the left, the
//! parts that do not begin a word written with `##`.

use tokenizers::decoders::wordpiece::WordPiece as Decoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{AddedToken, NormalizedString, Normalizer};

use super::TokenizerError;
use super::parts::{Vocab, unknown_token_missing};

pub(super) const CONTINUES: &str = "##";
/// Longest word that is cut up, in characters; a longer one becomes the unknown token. The work for a
/// word grows with the square of its length.
pub(super) const MAX_WORD: usize = 100;

/// What WordPiece needs besides the vocabulary.
pub(super) struct WordPieces {
    pub(super) unknown: String,
    pub(super) max_word: usize,
    pub(super) normalizer: BertNormalizer,
}

impl WordPieces {
    pub(super) fn build(
        self,
        vocab: Vocab,
        added: &[AddedToken],
    ) -> Result<tokenizers::Tokenizer, TokenizerError> {
        if !vocab.contains_key(&self.unknown) {
            return Err(unknown_token_missing(&self.unknown));
        }
        // The library looks for added tokens in normalised text; nothing left of one would be found
        // everywhere.
        for token in added.iter().filter(|token| token.normalized) {
            let mut text = NormalizedString::from(token.content.as_str());
            self.normalizer.normalize(&mut text).map_err(|e| TokenizerError::Broken(e.to_string()))?;
            if text.is_empty() {
                return Err(TokenizerError::Broken(format!("added token {:?} is invisible", token.content)));
            }
        }
        let model = WordPiece::builder()
            .vocab(vocab)
            .unk_token(self.unknown)
            .continuing_subword_prefix(CONTINUES.to_owned())
            .max_input_chars_per_word(self.max_word)
            .build()
            .map_err(|e| TokenizerError::Broken(e.to_string()))?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_normalizer(Some(self.normalizer));
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        tokenizer.with_decoder(Some(Decoder::default()));
        Ok(tokenizer)
    }
}

/// What a token is in running text: a space and itself, without the space where it continues a word
/// or is a mark that is written next to one.
pub(super) fn piece(token: &str) -> Box<[u8]> {
    match token.strip_prefix(CONTINUES) {
        Some(rest) => rest.as_bytes().into(),
        None if token.starts_with(['.', ',', '?', '!']) => token.as_bytes().into(),
        None => [b" ", token.as_bytes()].concat().into(),
    }
}
