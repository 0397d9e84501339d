//! Bytes on their way to one socket, some of them held back so that a frame leaves in pieces.

use std::io;

/// Whole frames in order; what is held back of one holds back what follows it.
#[derive(Debug, Default)]
pub struct Out {
    bytes: Vec<u8>,
    /// So many may be written.
    free: usize,
}

impl Out {
    /// Whether a part of a frame is held back.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.free < self.bytes.len()
    }

    /// Whether there is nothing to write, now or later.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends a frame that leaves as soon as everything before it has.
    pub fn append(&mut self, frame: impl FnOnce(&mut Vec<u8>)) {
        let held = self.is_holding();
        frame(&mut self.bytes);
        if !held {
            self.free = self.bytes.len();
        }
    }

    /// Appends a frame of which only `first` bytes leave until more is let go. Nothing may be held back already.
    pub fn append_cut(&mut self, frame: &[u8], first: usize) {
        debug_assert!(!self.is_holding(), "pieces of two frames would mix");
        self.free = self.bytes.len() + first.min(frame.len());
        self.bytes.extend_from_slice(frame);
    }

    /// Lets `count` more bytes go.
    pub fn release(&mut self, count: usize) {
        self.free = self.bytes.len().min(self.free + count);
    }

    /// Lets everything go.
    pub fn release_all(&mut self) {
        self.free = self.bytes.len();
    }

    /// Forgets everything: the connection is gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes what may be. False: the socket takes no more now.
    ///
    /// # Errors
    /// Of the socket.
    pub fn flush(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        let mut done = 0;
        let outcome = loop {
            if done == self.free {
                break Ok(true);
            }
            match write(&self.bytes[done..self.free]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(false),
                Err(error) => break Err(error),
            }
        };
        self.free -= done;
        self.bytes.drain(..done);
        if self.bytes.is_empty() {
            // Thousands of connections keep no memory for what they have sent.
            self.bytes = Vec::new();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_leave_in_order_and_nothing_gets_between_them() {
        let (mut out, mut written) = (Out::default(), Vec::new());
        let mut step = |out: &mut Out| {
            let before = written.len();
            let done = out.flush(|bytes| {
                // A socket that takes two bytes at a time.
                let some = bytes.len().min(2);
                written.extend_from_slice(&bytes[..some]);
                Ok(some)
            });
            assert!(done.unwrap());
            String::from_utf8(written[before..].to_vec()).unwrap()
        };
        out.append_cut(b"abcdef", 2);
        assert_eq!((step(&mut out).as_str(), out.is_holding()), ("ab", true));
        out.append(|bytes| bytes.extend_from_slice(b"XYZ"));
        assert_eq!(step(&mut out), "");
        out.release(1);
        assert_eq!(step(&mut out), "c");
        out.release_all();
        assert_eq!(
            (step(&mut out).as_str(), out.is_holding(), out.is_empty()),
            ("defXYZ", false, true)
        );
    }

    #[test]
    fn what_a_socket_does_not_take_waits() {
        let mut out = Out::default();
        out.append(|bytes| bytes.extend_from_slice(b"abc"));
        let blocked = |_: &[u8]| Err(io::ErrorKind::WouldBlock.into());
        assert!(!out.flush(blocked).unwrap() && !out.is_empty());
        assert!(out.flush(|bytes| Ok(bytes.len())).unwrap() && out.is_empty());
    }
}
