use serde::{Deserialize, Serialize};

use super::TokenizerError;

const START: &str = "<|im_start|>";
pub(super) const END: &str = "<|im_end|>";
/// Longest default system message that is believed.
const MAX_SYSTEM_BYTES: usize = 1 << 16;

/// How a user's message becomes a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChatFormat {
    /// As it is: the model continues the text.
    Raw,
    /// Turns between `<|im_start|>` and `<|im_end|>`.
    ChatMl {
        /// The system message put first.
        system: Option<String>,
    },
}

impl ChatFormat {
    /// Recognises the format of a model's chat template, which itself is not executed: templates are
    /// programs, and the file may come from anyone. An unknown template gives [`ChatFormat::Raw`].
    pub fn from_template(template: Option<&str>) -> Self {
        match template {
            Some(template) if template.contains(START) => Self::ChatMl { system: default_system(template) },
            _ => Self::Raw,
        }
    }

    /// The prompt for one message.
    pub fn prompt(&self, user: &str) -> String {
        match self {
            Self::Raw => user.to_owned(),
            Self::ChatMl { system } => {
                let system = system.iter().map(|s| format!("{START}system\n{s}{END}\n")).collect::<String>();
                format!("{system}{START}user\n{user}{END}\n{START}assistant\n")
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), TokenizerError> {
        match self {
            Self::ChatMl { system: Some(system) } if system.len() > MAX_SYSTEM_BYTES => {
                Err(TokenizerError::Broken(format!("a system message of {} bytes", system.len())))
            }
            _ => Ok(()),
        }
    }
}

/// The system message that a ChatML template spells out for conversations that bring none.
fn default_system(template: &str) -> Option<String> {
    // The line break may stand in the template itself or as the two characters `\n`.
    ["<|im_start|>system\n", "<|im_start|>system\\n"].into_iter().find_map(|head| {
        template.match_indices(head).find_map(|(at, _)| {
            let (system, _) = template[at + head.len()..].split_once(END)?;
            // Quotes and braces mean that the message is put together by the template's program.
            let plain = !system.contains(['{', '}', '\'', '"', '\\']);
            (plain && !system.is_empty() && system.len() <= MAX_SYSTEM_BYTES).then(|| system.to_owned())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let spelled = "{% if x %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}\
                       {{'<|im_start|>' + message['role']}}";
        let chat = ChatFormat::from_template(Some(spelled));
        assert_eq!(chat, ChatFormat::ChatMl { system: Some("Be kind.".into()) });
        assert_eq!(
            chat.prompt("Hi"),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        let escaped = spelled.replace('\n', "\\n");
        assert_eq!(ChatFormat::from_template(Some(&escaped)), chat);
        let computed = "{{ '<|im_start|>system\n' + system + '<|im_end|>\n' }}";
        let chat = ChatFormat::from_template(Some(computed));
        assert_eq!(chat.prompt("Hi"), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
        // As Qwen's: computed in one branch, spelled out in the other.
        let both = format!("{computed}{spelled}");
        assert_eq!(
            ChatFormat::from_template(Some(&both)),
            ChatFormat::ChatMl { system: Some("Be kind.".into()) }
        );
        assert_eq!(ChatFormat::from_template(Some("[INST]")).prompt("Hi"), "Hi");
        assert_eq!(ChatFormat::from_template(None), ChatFormat::Raw);
    }
}
