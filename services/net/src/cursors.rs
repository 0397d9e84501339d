//! A shard's memory-mapped record of how far each of its connections has come, which outlives the process: 32 bytes a slot.
//!
//! The shard writes as it goes, without a system call; when it is killed, the pages stay with the file, and the next gateway
//! reads it and compares with what the kernel has counted ([`crate::kernel_counts`]).
//!
//! Invariants:
//! - One writer, the shard. Readers read by ordinary reads, after the writer's death.
//! - A cell counts once its serial isn't 0. The serial is written last and erased first, so that a process killed in between
//!   leaves no cell rather than half of one.
//! - Memory of the volume is reserved before it is written: a write to a mapped page for which a full volume has no room
//!   would be a SIGBUS. A slot that nothing could be reserved for has no cell, and every method does nothing for it.

mod read;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, fence};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

pub use self::read::{ReadCursorsError, read_cursors};

/// Generation of the file's layout, the only one that is read.
pub const CURSORS_GENERATION: u32 = 1;

/// Most slots of a file: 512 MiB of addresses, and far more connections than a shard has.
pub const MOST_SLOTS: u32 = 1 << 24;

const MAGIC: [u8; 8] = *b"imacurs\n";
/// magic(8) ‖ generation(4) ‖ incarnation(4) ‖ shard(4) ‖ slots(4), little-endian, and zeroes.
const HEADER: usize = 64;
const CELL: usize = size_of::<Cell>();
/// What is reserved of the volume at a time, in bytes: 2,048 slots.
const STEP: u64 = 64 << 10;

/// One slot's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Low half of the connection's id; 0: nothing.
    pub serial: u64,
    /// Bytes read, up to the end of the last whole frame.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Frames passed on to state, modulo 2^32.
    pub forwarded: u32,
    /// Frames that wait to be written.
    pub queued: u16,
    /// The gateway's phase of the connection.
    pub phase: u8,
    /// The gateway's to define.
    pub flags: u8,
}

/// A cursor in shared memory. Integers in the machine's byte order: the file never leaves it.
#[repr(C, align(32))]
struct Cell {
    serial: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    forwarded: AtomicU32,
    queued: AtomicU16,
    phase: AtomicU8,
    flags: AtomicU8,
}

const _: () = assert!(size_of::<Cell>() == 32 && HEADER.is_multiple_of(align_of::<Cell>()));

/// One shard's file, or nothing.
#[derive(Debug)]
pub struct Cursors {
    /// Slots for which memory is reserved: the only ones that are touched. 0 without a file.
    usable: u32,
    file: Option<Mapped>,
}

#[derive(Debug)]
struct Mapped {
    file: File,
    start: NonNull<u8>,
    len: usize,
    slots: u32,
}

// SAFETY: the pointer is to a mapping that `Mapped` alone owns and that is valid in every thread.
#[expect(unsafe_code, reason = "a pointer to memory that moves with its owner")]
unsafe impl Send for Mapped {}

impl Mapped {
    #[expect(unsafe_code, reason = "no safe interface maps a file that may be shared")]
    fn new(file: File, len: usize, slots: u32) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the place, so no other memory is concerned. The mapping is reached through atomics only,
        // so that other mappings of the same file are no data race.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, &file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            file,
            start,
            len,
            slots,
        })
    }

    #[inline]
    #[expect(unsafe_code, reason = "a place in mapped memory")]
    fn cell(&self, slot: u32) -> &Cell {
        assert!(slot < self.slots);
        // SAFETY: the mapping is `HEADER + slots * CELL` bytes long, so the cell lies in it; it is aligned, as mappings start at
        // a page and the header and cells are multiples of 32 bytes; any bytes are a valid `Cell`; nothing but atomics
        // ever accesses it; and it lives as long as `self`, which unmaps it when it is dropped.
        unsafe {
            &*self
                .start
                .as_ptr()
                .add(HEADER + slot as usize * CELL)
                .cast::<Cell>()
        }
    }

    /// Reserves the volume's memory up to this slot and returns how many slots there are room for now.
    fn reserve(&self, usable: u32, slot: u32) -> io::Result<u32> {
        let end = |slots: u32| HEADER as u64 + u64::from(slots) * CELL as u64;
        let from = if usable == 0 { 0 } else { end(usable) };
        let to = end(slot + 1).next_multiple_of(STEP).min(self.len as u64);
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, to - from) {
            Ok(()) => {}
            // The same in a way that every file system knows. Nothing is there yet but the header.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let from = from.max(HEADER as u64);
                let zeroes = vec![0; usize::try_from(to - from).unwrap_or(0)];
                self.file.write_all_at(&zeroes, from)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(u32::try_from((to - HEADER as u64) / CELL as u64).unwrap_or(self.slots))
    }
}

impl Drop for Mapped {
    #[expect(unsafe_code, reason = "the end of the mapping")]
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping that `new` made, and references into it borrow `self`.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl Cursors {
    /// A new file, mode 0600, in place of one that may be there. It is sparse: it takes as much memory as slots were used.
    ///
    /// # Errors
    /// The file system's; `InvalidInput` for more than [`MOST_SLOTS`].
    pub fn create(path: &Path, incarnation: u32, shard: u32, slots: u32) -> io::Result<Self> {
        if slots == 0 || slots > MOST_SLOTS {
            let what = format!("{slots} slots are not between 1 and {MOST_SLOTS}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let len = HEADER + slots as usize * CELL;
        file.set_len(len as u64)?;
        let header = CursorsHeader {
            generation: CURSORS_GENERATION,
            incarnation,
            shard,
            slots,
        };
        file.write_all(&header.to_bytes())?;
        let mut cursors = Self {
            usable: 0,
            file: Some(Mapped::new(file, len, slots)?),
        };
        cursors.reserve(0)?;
        Ok(cursors)
    }

    /// No file: every method does nothing.
    #[must_use]
    pub fn none() -> Self {
        Self {
            usable: 0,
            file: None,
        }
    }

    fn reserve(&mut self, slot: u32) -> io::Result<()> {
        match &self.file {
            Some(file) if slot < file.slots => {
                self.usable = file.reserve(self.usable, slot)?;
                Ok(())
            }
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    #[inline]
    fn cell(&self, slot: u32) -> Option<&Cell> {
        if slot < self.usable {
            self.file.as_ref().map(|file| file.cell(slot))
        } else {
            None
        }
    }

    /// Writes a whole cell. Where the volume is full, or the file has no such slot, there will be none: the connection won't
    /// survive a kill of this process, and [`Self::get`] says so.
    pub fn open(&mut self, slot: u32, cursor: Cursor) {
        if slot >= self.usable && self.reserve(slot).is_err() {
            return;
        }
        let Some(cell) = self.cell(slot) else { return };
        cell.serial.store(0, Relaxed);
        fence(Release);
        cell.read.store(cursor.read, Relaxed);
        cell.written.store(cursor.written, Relaxed);
        cell.forwarded.store(cursor.forwarded, Relaxed);
        cell.queued.store(cursor.queued, Relaxed);
        cell.phase.store(cursor.phase, Relaxed);
        cell.flags.store(cursor.flags, Relaxed);
        cell.serial.store(cursor.serial, Release);
    }

    /// Erases a cell.
    pub fn close(&mut self, slot: u32) {
        if let Some(cell) = self.cell(slot) {
            cell.serial.store(0, Relaxed);
        }
    }

    /// Adds to the bytes read; costs as much as [`Self::add_written`].
    #[inline]
    pub fn add_read(&mut self, slot: u32, bytes: u64) {
        if let Some(cell) = self.cell(slot) {
            // There is one writer: a load and a store do, and a locked addition would be for nobody.
            cell.read
                .store(cell.read.load(Relaxed).wrapping_add(bytes), Relaxed);
        }
    }

    /// Adds to the bytes written: 1.3 ns on a cell in the cache, loop included, and 1.0 ns without a file (measured by
    /// `a_cursor_costs_nanoseconds`).
    #[inline]
    pub fn add_written(&mut self, slot: u32, bytes: u64) {
        if let Some(cell) = self.cell(slot) {
            cell.written
                .store(cell.written.load(Relaxed).wrapping_add(bytes), Relaxed);
        }
    }

    /// Counts one more frame passed on to state.
    #[inline]
    pub fn add_forwarded(&mut self, slot: u32) {
        if let Some(cell) = self.cell(slot) {
            cell.forwarded
                .store(cell.forwarded.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Notes how many frames wait to be written.
    #[inline]
    pub fn set_queued(&mut self, slot: u32, frames: u16) {
        if let Some(cell) = self.cell(slot) {
            cell.queued.store(frames, Relaxed);
        }
    }

    /// Notes the connection's phase.
    #[inline]
    pub fn set_phase(&mut self, slot: u32, phase: u8) {
        if let Some(cell) = self.cell(slot) {
            cell.phase.store(phase, Relaxed);
        }
    }

    /// What a cell says; serial 0 when there is none.
    #[must_use]
    pub fn get(&self, slot: u32) -> Cursor {
        self.cell(slot).map_or_else(Cursor::default, |cell| Cursor {
            serial: cell.serial.load(Relaxed),
            read: cell.read.load(Relaxed),
            written: cell.written.load(Relaxed),
            forwarded: cell.forwarded.load(Relaxed),
            queued: cell.queued.load(Relaxed),
            phase: cell.phase.load(Relaxed),
            flags: cell.flags.load(Relaxed),
        })
    }
}

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorsHeader {
    /// Of the layout.
    pub generation: u32,
    /// Incarnation of the gateway that wrote it.
    pub incarnation: u32,
    /// Its shard.
    pub shard: u32,
    /// Slots that the file has room for.
    pub slots: u32,
}

impl CursorsHeader {
    fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        let numbers = [self.generation, self.incarnation, self.shard, self.slots];
        for (place, number) in bytes[8..].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER]) -> Option<Self> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (bytes[..8] == MAGIC).then(|| Self {
            generation: number(8),
            incarnation: number(12),
            shard: number(16),
            slots: number(20),
        })
    }
}

#[cfg(test)]
mod tests;
