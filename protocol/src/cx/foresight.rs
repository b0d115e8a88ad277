//! Streams that are drawn before they are needed.
//!
//! A device of its own draws several short streams in the time of one: asking it takes longer than drawing. A gate knows
//! which items it will open and deal, as streams are named by operation and purpose; it says so, and what the operations then
//! draw is there already. The words are the same, and so is all that is sent.

use super::rounds::Core;
use super::{Cx, Item, Op};
use crate::Role;
use crate::prg::{KeyId, Stream};
use kernels::Words;

impl Item {
    fn stream(&self, key: KeyId) -> Stream {
        Stream { key, op: self.op.number, lane: self.lane(), n: self.n, bits: self.bits }
    }
}

impl Core<'_> {
    /// A stream of one pairwise key, if this party knows it.
    pub(super) fn draw(&mut self, key: KeyId, item: &Item) -> Option<Words> {
        let stream = item.stream(key);
        match self.foreseen.iter().position(|(s, _)| *s == stream) {
            Some(at) => {
                self.session.note_draw(key, item);
                Some(self.foreseen.swap_remove(at).1)
            }
            None => self.session.draw(key, item),
        }
    }

    /// Draws what is not there yet, where that is faster than to draw it when it is needed, and little is held meanwhile.
    fn foresee(&mut self, streams: impl Iterator<Item = Stream>) {
        let absent = |s: &Stream| !self.foreseen.iter().any(|(known, _)| known == s);
        let streams: Vec<Stream> = streams.filter(absent).collect();
        let held = streams.iter().chain(self.foreseen.iter().map(|(s, _)| s)).map(|s| s.n).sum::<usize>();
        if streams.len() > 1 && held <= self.session.device.draws_together() {
            let words = self.session.draw_each(&streams);
            self.foreseen.extend(streams.into_iter().zip(words));
        }
    }
}

impl Cx<'_> {
    /// The operation that begins after `others` more, if no exchange comes before it.
    pub(crate) fn coming(&self, others: usize) -> Op {
        Op { number: self.core.borrow().coming(others), scope: 0 }
    }

    /// Draws the masks of items that are opened and of items that are dealt soon: whatever of them is opened or dealt then,
    /// and whenever, is as it would be without. To be said of items that will be, of the sizes and widths they will have.
    pub fn foresee(&self, opened: &[Item], dealt: &[Item]) {
        if self.device.draws_together() == 0 {
            return;
        }
        let of = |key, items: &[Item]| items.iter().map(move |item| item.stream(key)).collect::<Vec<_>>();
        let (k01, k02) = match self.role {
            Role::Dealer => {
                ([of(KeyId::K01, opened), of(KeyId::K01, dealt)].concat(), of(KeyId::K02, opened))
            }
            Role::P1 => ([of(KeyId::K01, opened), of(KeyId::K01, dealt)].concat(), vec![]),
            Role::P2 => (vec![], of(KeyId::K02, opened)),
        };
        self.core.borrow_mut().foresee(k01.into_iter().chain(k02));
    }
}
