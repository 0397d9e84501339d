//! Reading what another process has left: by ordinary reads, believing nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::{CELL, CURSORS_GENERATION, Cursor, CursorsHeader, HEADER, MOST_SLOTS, STEP};

/// Why a file of cursors can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadCursorsError {
    /// There is none.
    #[error("there is no such file")]
    NotFound,
    /// It is something else, or was never finished.
    #[error("it is no file of cursors")]
    Strange,
    /// It is of a layout that this build doesn't know.
    #[error("it is of generation {0}, and this build reads {CURSORS_GENERATION}")]
    Generation(u32),
    /// It is shorter or longer than its header says, or says what can't be.
    #[error("it is {len} bytes long, and {slots} slots don't take as many")]
    Truncated {
        /// The file's length.
        len: u64,
        /// Slots in its header.
        slots: u32,
    },
    /// It can't be read.
    #[error("it can't be read")]
    Io(#[from] io::Error),
}

/// Reads a file left by another process: its header, and every cell with a serial, by slot.
///
/// # Errors
/// See [`ReadCursorsError`].
pub fn read_cursors(path: &Path) -> Result<(CursorsHeader, Vec<(u32, Cursor)>), ReadCursorsError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadCursorsError::NotFound),
        file => file?,
    };
    let len = file.metadata()?.len();
    let mut header = [0; HEADER];
    if let Err(error) = file.read_exact_at(&mut header, 0) {
        return Err(match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadCursorsError::Strange,
            _ => error.into(),
        });
    }
    let header = CursorsHeader::from_bytes(&header).ok_or(ReadCursorsError::Strange)?;
    if header.generation != CURSORS_GENERATION {
        return Err(ReadCursorsError::Generation(header.generation));
    }
    let slots = header.slots;
    let possible = (1..=MOST_SLOTS).contains(&slots);
    if !possible || len != HEADER as u64 + u64::from(slots) * CELL as u64 {
        return Err(ReadCursorsError::Truncated { len, slots });
    }
    let mut cells = Vec::new();
    let mut chunk = vec![0; STEP as usize];
    let mut slot = 0;
    while slot < slots {
        let at = HEADER as u64 + u64::from(slot) * CELL as u64;
        // Over holes, which have no cells: most of the file.
        let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let skipped = (data.max(at) - at) / CELL as u64;
        slot += u32::try_from(skipped).unwrap_or(u32::MAX).min(slots - slot);
        let count = (slots - slot).min((chunk.len() / CELL) as u32);
        let bytes = &mut chunk[..count as usize * CELL];
        file.read_exact_at(bytes, HEADER as u64 + u64::from(slot) * CELL as u64)?;
        let read = bytes.chunks_exact(CELL).zip(slot..).filter_map(|(cell, slot)| {
            let cursor = cursor(cell);
            (cursor.serial != 0).then_some((slot, cursor))
        });
        cells.extend(read);
        slot += count;
    }
    Ok((header, cells))
}

/// A cell's bytes, as [`Cell`] lays them out.
fn cursor(cell: &[u8]) -> Cursor {
    let long = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&cell[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    Cursor {
        serial: long(0),
        read: long(8),
        written: long(16),
        forwarded: u32::from_ne_bytes([cell[24], cell[25], cell[26], cell[27]]),
        queued: u16::from_ne_bytes([cell[28], cell[29]]),
        phase: cell[30],
        flags: cell[31],
    }
}
