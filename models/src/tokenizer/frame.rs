use serde_json::Value;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;

/// How an encoder's texts are framed by special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) style: Style,
    /// The token before a text.
    pub(super) first: u32,
    /// The token after it.
    pub(super) last: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `[CLS] A [SEP]`, and `[CLS] A [SEP] B [SEP]` with B and what follows of token type 1.
    Bert,
    /// `<s> A </s>`, and `<s> A </s></s> B </s>`, all of token type 0.
    Roberta,
}

impl Frame {
    pub(super) fn single(&self, ids: &[u32]) -> Vec<u32> {
        [&[self.first], ids, &[self.last]].concat()
    }

    /// The ids of two texts, and how many of them, from the start, are of token type 0.
    pub(super) fn pair(&self, a: &[u32], b: &[u32]) -> (Vec<u32>, usize) {
        let (between, last) = ([self.last; 2], [self.last]);
        match self.style {
            Style::Bert => ([&[self.first], a, &last, b, &last].concat(), a.len() + 2),
            Style::Roberta => {
                let ids = [&[self.first], a, &between, b, &last].concat();
                let length = ids.len();
                (ids, length)
            }
        }
    }

    /// The library's description of it, for `tokenizer.json`.
    pub(super) fn processor(&self, tokens: &[String]) -> PostProcessorWrapper {
        let named = |id: u32| (tokens[id as usize].clone(), id);
        let (sep, cls) = (named(self.last), named(self.first));
        match self.style {
            Style::Bert => BertProcessing::new(sep, cls).into(),
            Style::Roberta => {
                RobertaProcessing::new(sep, cls).trim_offsets(false).add_prefix_space(false).into()
            }
        }
    }
}

/// What a post-processor of `tokenizer.json` adds to a text.
#[derive(Debug, PartialEq)]
pub(super) enum Added {
    Nothing,
    /// One token before it.
    Leading(u32),
    Frame(Frame),
}

/// Recognises a post-processor; `None` for one that means something else. Steps that only correct
/// places in the text add nothing to it.
pub(super) fn recognise(value: &Value, tokens: &[String]) -> Option<Added> {
    let kind = value.get("type")?.as_str()?;
    let named = |key: &str| {
        let pair = value.get(key)?.as_array()?;
        checked(pair.first()?.as_str()?, pair.get(1)?, tokens)
    };
    let frame = |style| Some(Added::Frame(Frame { style, first: named("cls")?, last: named("sep")? }));
    match kind {
        "ByteLevel" => Some(Added::Nothing),
        "BertProcessing" => frame(Style::Bert),
        "RobertaProcessing" => frame(Style::Roberta),
        "TemplateProcessing" => template(value, tokens),
        "Sequence" => {
            let mut found = Added::Nothing;
            for step in value.get("processors")?.as_array()? {
                if step.get("type")?.as_str()? == "Sequence" {
                    return None;
                }
                match recognise(step, tokens)? {
                    Added::Nothing => {}
                    step if found == Added::Nothing => found = step,
                    _ => return None,
                }
            }
            Some(found)
        }
        _ => None,
    }
}

/// A token by name and id, if the vocabulary agrees.
fn checked(name: &str, id: &Value, tokens: &[String]) -> Option<u32> {
    let id = u32::try_from(id.as_u64()?).ok()?;
    (tokens.get(id as usize)? == name).then_some(id)
}

/// A piece of a template, with its token type.
#[derive(PartialEq, Clone, Copy)]
enum Piece {
    A(u64),
    B(u64),
    Special(u32, u64),
}

fn template(value: &Value, tokens: &[String]) -> Option<Added> {
    use Piece::{A, B, Special};
    let pieces = |key: &str| -> Option<Vec<Piece>> {
        value.get(key)?.as_array()?.iter().map(|piece| read_piece(piece, value, tokens)).collect()
    };
    match pieces("single")?[..] {
        [A(0)] => Some(Added::Nothing),
        [Special(first, 0), A(0)] => Some(Added::Leading(first)),
        [Special(first, 0), A(0), Special(last, 0)] => {
            let pair = pieces("pair")?;
            let (cls, sep) = (Special(first, 0), Special(last, 0));
            let style = if pair == [cls, A(0), sep, B(1), Special(last, 1)] {
                Style::Bert
            } else if pair == [cls, A(0), sep, sep, B(0), sep] {
                Style::Roberta
            } else {
                return None;
            };
            Some(Added::Frame(Frame { style, first, last }))
        }
        _ => None,
    }
}

fn read_piece(piece: &Value, template: &Value, tokens: &[String]) -> Option<Piece> {
    if let Some(sequence) = piece.get("Sequence") {
        let kind = sequence.get("type_id")?.as_u64()?;
        return match sequence.get("id")?.as_str()? {
            "A" => Some(Piece::A(kind)),
            "B" => Some(Piece::B(kind)),
            _ => None,
        };
    }
    let special = piece.get("SpecialToken")?;
    let line = template.get("special_tokens")?.get(special.get("id")?.as_str()?)?;
    let only = |key: &str| match line.get(key)?.as_array()?.as_slice() {
        [one] => Some(one),
        _ => None,
    };
    let id = checked(only("tokens")?.as_str()?, only("ids")?, tokens)?;
    Some(Piece::Special(id, special.get("type_id")?.as_u64()?))
}
