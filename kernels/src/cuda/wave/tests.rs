//! Which operations go together.

use super::*;
use std::sync::Mutex;

/// Notes what it is asked for.
#[derive(Debug, Default)]
struct Notes {
    waves: Mutex<Vec<Vec<u64>>>,
    freed: Mutex<Vec<Address>>,
}

impl Driver for Notes {
    fn name(&self) -> String {
        "notes".into()
    }
    fn memory(&self) -> Option<(u64, u64)> {
        None
    }
    fn status(&self) -> Result<(), Fault> {
        Ok(())
    }
    fn alloc(&self, _: u64) -> Result<Address, Fault> {
        Ok(256)
    }
    unsafe fn free(&self, at: Address) {
        self.freed.lock().unwrap().push(at);
    }
    unsafe fn zero(&self, _: Address, _: u64) -> Result<(), Fault> {
        Ok(())
    }
    unsafe fn copy_in(&self, _: Address, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }
    unsafe fn copy_out(&self, _: &mut [u8], _: Address) -> Result<(), Fault> {
        Ok(())
    }
    unsafe fn launch(&self, launch: &Launch, args: &[Arg<'_>]) -> Result<(), Fault> {
        let Arg::Block(block) = args[0] else { panic!("{args:?}") };
        assert_eq!(u64::from(launch.grid[0]), block[1]);
        // The first argument of each operation, as its name.
        let operations = &block[2..][..block[0] as usize];
        let names = operations.iter().map(|o| block[2 + OPERATIONS + (o >> 8 & 0xff_ffff) as usize + 1]);
        self.waves.lock().unwrap().push(names.collect());
        if self.waves.lock().unwrap().len() == 9 {
            return Err(Fault::Driver { code: 1, text: "the ninth".into() });
        }
        Ok(())
    }
}

fn buffer(number: u64) -> [Address; 2] {
    [number << 8, (number << 8) + 80]
}

fn span(number: u64) -> Span {
    Span { buffer: buffer(number), words: buffer(number) }
}

/// An operation that reads and writes these buffers.
fn add(queue: &mut Queue, name: u64, reads: &[u64], writes: &[u64]) {
    let [reads, writes] = [reads, writes].map(|all| all.iter().map(|b| span(*b)).collect::<Vec<_>>());
    let (kind, args) = (Kind::Pack, &[name][..]);
    queue.add(&Operation { kind, elements: 10, args, reads: &reads, writes: &writes });
}

#[test]
fn operations_go_as_soon_as_what_they_depend_on() {
    let (mut queue, notes) = (Queue::new(80 << 15), Notes::default());
    add(&mut queue, 1, &[1], &[2]);
    add(&mut queue, 2, &[2], &[3]); // reads what 1 writes
    add(&mut queue, 3, &[4], &[5]); // nothing to do with them
    add(&mut queue, 4, &[1], &[6]); // reads what others read
    add(&mut queue, 5, &[7], &[1]); // writes what 1 and 4 read
    add(&mut queue, 6, &[7], &[3]); // writes what 2 writes
    add(&mut queue, 7, &[3, 1], &[8]); // reads what 5 and 6 write
    queue.start(&notes).unwrap();
    assert_eq!(*notes.waves.lock().unwrap(), [vec![1, 3, 4], vec![2, 5], vec![6], vec![7]]);
    // The next ones depend on nothing that waits.
    add(&mut queue, 8, &[8], &[9]);
    queue.start(&notes).unwrap();
    assert_eq!(notes.waves.lock().unwrap()[4], [8]);
    queue.start(&notes).unwrap();
    assert_eq!(notes.waves.lock().unwrap().len(), 5);
}

/// Parts of a message are packed side by side, and read as a whole.
#[test]
fn parts_of_a_buffer() {
    let (mut queue, notes) = (Queue::new(80 << 15), Notes::default());
    let part = |from: u64, to: u64| Span { buffer: buffer(1), words: [256 + from, 256 + to] };
    let mut add = |name, reads: &[Span], writes: &[Span]| {
        queue.add(&Operation { kind: Kind::Pack, elements: 1, args: &[name], reads, writes });
    };
    add(1, &[], &[part(0, 16)]);
    add(2, &[], &[part(16, 32)]);
    add(3, &[part(8, 16)], &[]);
    add(4, &[span(1)], &[span(2)]);
    add(5, &[], &[part(24, 40)]);
    add(6, &[], &[part(40, 80)]);
    queue.start(&notes).unwrap();
    assert_eq!(*notes.waves.lock().unwrap(), [vec![1, 2], vec![3, 4], vec![5, 6]]);
}

/// A copy of one buffer's words as another's.
fn copy(from: u64, to: u64) -> (Draft, [Span; 1]) {
    let inputs = vec![Taking::contiguous(span(from))];
    (Draft { steps: vec![crate::cuda::formula::COPY], inputs, elements: 10 }, [span(to)])
}

/// What is made of words that are to be written is made of what they are made of, unless either changes.
#[test]
fn formulas_do_not_wait_for_formulas() {
    let (mut queue, notes) = (Queue::new(80 << 15), Notes::default());
    let (second, outputs) = copy(2, 3);
    // Its input is there.
    assert_eq!(queue.sooner(second.clone(), &outputs).inputs, second.inputs);
    let (first, made) = copy(1, 2);
    let note = |queue: &mut Queue| {
        add(queue, 1, &[1], &[2]);
        queue.note(Recipe::of(first.clone(), &made));
    };
    note(&mut queue);
    assert_eq!(queue.sooner(second.clone(), &outputs).inputs, first.inputs);
    // What it would be made of is to be written as well, so that nothing is gained.
    add(&mut queue, 2, &[], &[4]);
    let (other, made_later) = copy(4, 5);
    add(&mut queue, 3, &[4], &[5]);
    queue.note(Recipe::of(other.clone(), &made_later));
    let (third, outputs_later) = copy(5, 6);
    assert_eq!(queue.sooner(third.clone(), &outputs_later).inputs, other.inputs);
    queue.recipes.clear();
    assert_eq!(queue.sooner(third.clone(), &outputs_later).inputs, third.inputs);
    // The words, or those that they are made of, change.
    for (name, changed) in [(4, 1), (5, 2)] {
        note(&mut queue);
        add(&mut queue, name, &[], &[changed]);
        assert_eq!(queue.sooner(second.clone(), &outputs).inputs, second.inputs);
    }
    // It writes what they are made of, or is that itself.
    note(&mut queue);
    assert_eq!(queue.sooner(second.clone(), &[span(1)]).inputs, second.inputs);
    let (own, itself) = copy(7, 7);
    add(&mut queue, 6, &[7], &[7]);
    queue.note(Recipe::of(own, &itself));
    let (fourth, outputs_last) = copy(7, 8);
    assert_eq!(queue.sooner(fourth.clone(), &outputs_last).inputs, fourth.inputs);
    queue.start(&notes).unwrap();
    assert!(queue.recipes.is_empty());
}

/// The same for words that are masked, however late their masks are drawn.
#[test]
fn masked_words_do_not_wait() {
    let mut queue = Queue::new(80 << 15);
    // The mask is drawn in the second wave.
    add(&mut queue, 1, &[], &[9]);
    add(&mut queue, 2, &[], &[9]);
    queue.note_draw(span(9), [5; 8]);
    let (first, made) = copy(1, 2);
    add(&mut queue, 3, &[1], &[2]);
    queue.note(Recipe::of(first.clone(), &made));
    let (draft, kept, draw) = queue.making(span(2), span(9)).expect("both are known");
    assert_eq!((draft.inputs, kept, draw), (first.inputs, 0, [5; 8]));
    assert_eq!(draft.steps[0].to, crate::formula::Place::Temporary(0));
    assert!(queue.making(span(1), span(9)).is_none() && queue.making(span(2), span(1)).is_none());
    // What the words were made of changes, or they were made in place.
    add(&mut queue, 4, &[], &[1]);
    assert!(queue.making(span(2), span(9)).is_none());
    let (own, itself) = copy(7, 7);
    add(&mut queue, 5, &[7], &[7]);
    queue.note(Recipe::of(own, &itself));
    assert!(queue.making(span(7), span(9)).is_none());
    // The mask is another one by now.
    let (other, made_later) = copy(3, 4);
    add(&mut queue, 6, &[3], &[4]);
    queue.note(Recipe::of(other, &made_later));
    assert!(queue.making(span(4), span(9)).is_some());
    add(&mut queue, 7, &[], &[9]);
    assert!(queue.making(span(4), span(9)).is_none());
}

#[test]
fn full_waves_go_on_in_the_next() {
    let (mut queue, notes) = (Queue::new(80 << 15), Notes::default());
    for name in 0..=OPERATIONS as u64 {
        add(&mut queue, name, &[1], &[2 + name]);
    }
    // After the last of the first wave, and after the one that found no room in it.
    add(&mut queue, 100, &[1 + OPERATIONS as u64], &[200]);
    add(&mut queue, 101, &[2 + OPERATIONS as u64], &[201]);
    queue.start(&notes).unwrap();
    let waves = notes.waves.lock().unwrap();
    assert_eq!(waves[0], (0..OPERATIONS as u64).collect::<Vec<_>>());
    assert_eq!(waves[1..], [vec![OPERATIONS as u64, 100], vec![101]]);
}

#[test]
fn memory_in_use_is_known_and_stays() {
    let (mut queue, notes) = (Queue::new(80 << 15), Notes::default());
    add(&mut queue, 1, &[1, 3], &[2]);
    for [start, end] in [1, 2, 3].map(buffer) {
        assert!(queue.uses(start) && queue.uses(end - 1) && !queue.uses(end));
    }
    assert!(!queue.uses(0) && !queue.uses(4 << 8));
    queue.free(buffer(1));
    assert!(!queue.is_full() && notes.freed.lock().unwrap().is_empty());
    queue.free([1 << 20, (1 << 20) + 1]);
    assert!(queue.is_full());
    queue.start(&notes).unwrap();
    assert_eq!(*notes.freed.lock().unwrap(), [1 << 8, 1 << 20]);
    assert!(!queue.uses(1 << 8) && !queue.is_full());
}

#[test]
fn a_failure_ends_all_that_waits() {
    let (mut queue, notes) = (Queue::new(80 << 15), Notes::default());
    for name in 0..12 {
        add(&mut queue, name, &[], &[1]);
    }
    queue.free(buffer(1));
    assert!(queue.start(&notes).is_err());
    assert_eq!((notes.waves.lock().unwrap().len(), notes.freed.lock().unwrap().len()), (9, 1));
    queue.start(&notes).unwrap();
    assert_eq!(notes.waves.lock().unwrap().len(), 9);
}
