use super::*;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::Instant;

use proptest::prelude::*;

/// Path of the file that the child of `what_a_killed_process_wrote_is_there` writes.
const CHILD: &str = "IMACCESS_TEST_CURSORS";

fn cursor(serial: u64) -> Cursor {
    Cursor {
        serial,
        read: 10,
        written: 20,
        forwarded: 3,
        queued: 4,
        phase: 5,
        flags: 6,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open(u32, Cursor),
    Close(u32),
    Read(u32, u64),
    Written(u32, u64),
    Forwarded(u32),
    Queued(u32, u16),
    Phase(u32, u8),
}

/// Above what is reserved at first, and one beyond the end.
const SLOTS: u32 = 5_000;

fn step() -> impl Strategy<Value = Step> {
    let slot = || prop_oneof![0u32..4, Just(2_047), Just(2_048), SLOTS - 2..=SLOTS];
    let content = (1u64.., any::<(u64, u64, u32, u16, u8, u8)>()).prop_map(|(serial, rest)| Cursor {
        serial,
        read: rest.0,
        written: rest.1,
        forwarded: rest.2,
        queued: rest.3,
        phase: rest.4,
        flags: rest.5,
    });
    prop_oneof![
        (slot(), content).prop_map(|(slot, cursor)| Step::Open(slot, cursor)),
        slot().prop_map(Step::Close),
        (slot(), any::<u64>()).prop_map(|(slot, bytes)| Step::Read(slot, bytes)),
        (slot(), any::<u64>()).prop_map(|(slot, bytes)| Step::Written(slot, bytes)),
        slot().prop_map(Step::Forwarded),
        (slot(), any::<u16>()).prop_map(|(slot, frames)| Step::Queued(slot, frames)),
        (slot(), any::<u8>()).prop_map(|(slot, phase)| Step::Phase(slot, phase)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a map from slot to cursor: what is in the map is read from the file, no more and no less.
    #[test]
    fn what_is_written_is_read_back(steps in proptest::collection::vec(step(), 0..60)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cursors.7.1");
        let mut cursors = Cursors::create(&path, 7, 1, SLOTS).unwrap();
        let mut model: BTreeMap<u32, Cursor> = BTreeMap::new();
        for step in steps {
            let change: Box<dyn Fn(&mut Cursor)> = match step {
                Step::Open(slot, cursor) => {
                    cursors.open(slot, cursor);
                    if slot < SLOTS {
                        model.insert(slot, cursor);
                    }
                    continue;
                }
                Step::Close(slot) => {
                    cursors.close(slot);
                    model.remove(&slot);
                    continue;
                }
                Step::Read(slot, bytes) => {
                    cursors.add_read(slot, bytes);
                    Box::new(move |cursor| cursor.read = cursor.read.wrapping_add(bytes))
                }
                Step::Written(slot, bytes) => {
                    cursors.add_written(slot, bytes);
                    Box::new(move |cursor| cursor.written = cursor.written.wrapping_add(bytes))
                }
                Step::Forwarded(slot) => {
                    cursors.add_forwarded(slot);
                    Box::new(|cursor| cursor.forwarded = cursor.forwarded.wrapping_add(1))
                }
                Step::Queued(slot, frames) => {
                    cursors.set_queued(slot, frames);
                    Box::new(move |cursor| cursor.queued = frames)
                }
                Step::Phase(slot, phase) => {
                    cursors.set_phase(slot, phase);
                    Box::new(move |cursor| cursor.phase = phase)
                }
            };
            let (Step::Read(slot, _)
            | Step::Written(slot, _)
            | Step::Forwarded(slot)
            | Step::Queued(slot, _)
            | Step::Phase(slot, _)
            | Step::Open(slot, _)
            | Step::Close(slot)) = step;
            if let Some(cursor) = model.get_mut(&slot) {
                change(cursor);
            }
        }
        for (&slot, cursor) in &model {
            prop_assert_eq!(cursors.get(slot), *cursor);
        }
        let (header, cells) = read_cursors(&path).unwrap();
        let expected = CursorsHeader { generation: CURSORS_GENERATION, incarnation: 7, shard: 1, slots: SLOTS };
        prop_assert_eq!(header, expected);
        prop_assert_eq!(cells, model.into_iter().collect::<Vec<_>>());
    }

    /// Whatever a file holds, reading it says something.
    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), honest: bool, slots in 0u32..8) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cursors");
        let mut bytes = bytes;
        if honest && bytes.len() >= HEADER {
            let header = CursorsHeader { generation: CURSORS_GENERATION, incarnation: 1, shard: 0, slots };
            bytes[..HEADER].copy_from_slice(&header.to_bytes());
        }
        std::fs::write(&path, &bytes).unwrap();
        let fits = honest && slots > 0 && bytes.len() == HEADER + slots as usize * CELL;
        prop_assert_eq!(read_cursors(&path).is_ok(), fits);
    }
}

#[test]
fn faults_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cursors");
    assert!(matches!(read_cursors(&path), Err(ReadCursorsError::NotFound)));
    let write = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        read_cursors(&path).unwrap_err()
    };
    assert!(matches!(write(b""), ReadCursorsError::Strange));
    assert!(matches!(write(&[0; 200]), ReadCursorsError::Strange));
    let mut header = CursorsHeader {
        generation: 9,
        incarnation: 1,
        shard: 0,
        slots: 1,
    };
    assert!(matches!(
        write(&header.to_bytes()),
        ReadCursorsError::Generation(9)
    ));
    header.generation = CURSORS_GENERATION;
    let short = write(&header.to_bytes());
    assert!(matches!(short, ReadCursorsError::Truncated { len: 64, slots: 1 }));
    header.slots = u32::MAX;
    assert!(matches!(
        write(&header.to_bytes()),
        ReadCursorsError::Truncated { .. }
    ));
    for slots in [0, MOST_SLOTS + 1] {
        assert!(Cursors::create(&path, 1, 0, slots).is_err());
    }
}

#[test]
fn the_file_is_private_sparse_and_replaced() {
    // Both kinds of file system, where both are there.
    for place in [std::env::temp_dir(), "/dev/shm".into()] {
        let Ok(directory) = tempfile::tempdir_in(&place) else {
            continue;
        };
        let path = directory.path().join("cursors.1.0");
        std::fs::write(&path, "old").unwrap();
        let mut cursors = Cursors::create(&path, 1, 0, 1 << 20).unwrap();
        cursors.open(0, cursor(1));
        cursors.open(900_000, cursor(2));
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(metadata.len(), 64 + (32 << 20));
        let (_, cells) = read_cursors(&path).unwrap();
        assert_eq!(cells, [(0, cursor(1)), (900_000, cursor(2))]);

        let mut few = Cursors::create(&path, 1, 0, 1 << 20).unwrap();
        few.open(5, cursor(3));
        let taken = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(taken <= 2 * STEP, "{taken} bytes for one slot in {place:?}");
        assert_eq!(read_cursors(&path).unwrap().1, [(5, cursor(3))]);
        // The one before is not disturbed: its file has no name any more.
        assert_eq!(cursors.get(900_000), cursor(2));
    }
}

#[test]
fn without_a_file_nothing_happens() {
    let mut cursors = Cursors::none();
    cursors.open(0, cursor(1));
    cursors.add_read(0, 1);
    cursors.add_written(0, 1);
    cursors.add_forwarded(0);
    cursors.set_queued(0, 1);
    cursors.set_phase(0, 1);
    assert_eq!(cursors.get(0), Cursor::default());
    cursors.close(0);
}

/// What a full volume does: no cell, no signal.
#[test]
fn a_slot_that_nothing_is_reserved_for_has_no_cell() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cursors");
    let mut cursors = Cursors::create(&path, 1, 0, SLOTS).unwrap();
    cursors.open(0, cursor(1));
    // A descriptor that can't be written reserves nothing, as on a full volume.
    if let Some(mapped) = &mut cursors.file {
        mapped.file = File::open(&path).unwrap();
    }
    cursors.open(4_000, cursor(2));
    cursors.add_read(4_000, 1);
    cursors.add_read(0, 1);
    assert_eq!(cursors.get(4_000), Cursor::default());
    assert_eq!(cursors.get(0).read, 11);
    assert_eq!(read_cursors(&path).unwrap().1.len(), 1);
}

#[test]
fn what_a_killed_process_wrote_is_there() {
    if let Some(path) = std::env::var_os(CHILD) {
        return write_and_wait(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cursors.3.1");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "cursors::tests::what_a_killed_process_wrote_is_there",
            "--nocapture",
        ])
        .env(CHILD, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let said = output
        .lines()
        .find(|line| line.as_ref().unwrap().contains("written"));
    assert!(said.is_some(), "the child ended early");
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();

    let (header, cells) = read_cursors(&path).unwrap();
    assert_eq!((header.incarnation, header.shard, header.slots), (3, 1, SLOTS));
    let expected = |slot: u32| Cursor {
        read: 10 + u64::from(slot),
        written: 21,
        forwarded: 4,
        queued: 9,
        phase: 8,
        ..cursor(u64::from(slot) + 1)
    };
    let all: Vec<_> = (0..SLOTS)
        .filter(|slot| slot % 3 != 0)
        .map(|slot| (slot, expected(slot)))
        .collect();
    assert_eq!(cells, all);
}

fn write_and_wait(path: &Path) {
    let mut cursors = Cursors::create(path, 3, 1, SLOTS).unwrap();
    for slot in 0..SLOTS {
        cursors.open(slot, cursor(u64::from(slot) + 1));
        cursors.add_read(slot, u64::from(slot));
        cursors.add_written(slot, 1);
        cursors.add_forwarded(slot);
        cursors.set_queued(slot, 9);
        cursors.set_phase(slot, 8);
        if slot % 3 == 0 {
            cursors.close(slot);
        }
    }
    println!("\nwritten");
    // Until the parent kills it, or is gone.
    io::stdin().read_line(&mut String::new()).unwrap();
    std::process::abort();
}

#[test]
fn a_cursor_costs_nanoseconds() {
    const ROUNDS: u64 = 20_000_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cursors");
    let mut cursors = Cursors::create(&path, 1, 0, SLOTS).unwrap();
    for slot in 0..1_024 {
        cursors.open(slot, cursor(1));
    }
    let mut none = Cursors::none();
    let measure = |cursors: &mut Cursors, what: &str| {
        let began = Instant::now();
        for round in 0..ROUNDS {
            cursors.add_written(std::hint::black_box(round as u32 & 1_023), 100);
        }
        let each = began.elapsed().as_secs_f64() / ROUNDS as f64 * 1e9;
        println!("add_written, {what}: {each:.2} ns");
    };
    measure(&mut cursors, "1,024 slots in turn");
    measure(&mut none, "without a file");
    assert_eq!(cursors.get(0).written, 20 + ROUNDS.div_ceil(1_024) * 100);
}
