//! What a part writes to standard error: passed on as it comes, and its last bytes kept for whoever asks why it died.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Kept per process: the lines that say why it can't start.
const KEPT: usize = 4 << 10;
/// Read at once; a longer line is passed on in pieces.
const CHUNK: usize = 8 << 10;

/// The last of what one process wrote; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&bytes[bytes.len().saturating_sub(KEPT)..]);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }

    pub(super) fn text(&self) -> String {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: &[u8] = kept.make_contiguous();
        // After a cut, the first line is half a line.
        let whole = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) if bytes.len() == KEPT => &bytes[end + 1..],
            _ => bytes,
        };
        String::from_utf8_lossy(whole).into_owned()
    }
}

/// Passes on whole lines, so that those of several parts don't mix, until the end. If nobody takes them any more it goes
/// on reading: a process must not stand still because of its log.
pub(super) async fn pass_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, tail: Tail) {
    let mut buffer = vec![0; CHUNK];
    let mut filled = 0;
    loop {
        let read = from.read(&mut buffer[filled..]).await.unwrap_or(0);
        tail.add(&buffer[filled..filled + read]);
        filled += read;
        let at_end = read == 0 || filled == CHUNK;
        let whole = match buffer[..filled].iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if at_end => filled,
            None => 0,
        };
        if whole > 0 {
            // See above.
            let _ = to.write_all(&buffer[..whole]).await;
            let _ = to.flush().await;
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
        }
        if read == 0 {
            if filled > 0 {
                let _ = to.write_all(&buffer[..filled]).await;
                let _ = to.flush().await;
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_is_passed_on_and_the_last_lines_are_kept() {
        let long = format!("{}\nno end", "x".repeat(3 * CHUNK));
        for text in ["", "no end", "one\ntwo\n", long.as_str()] {
            let (mut to, tail) = (Vec::new(), Tail::default());
            pass_on(text.as_bytes(), &mut to, tail.clone()).await;
            assert_eq!(to, text.as_bytes());
            assert!(text.ends_with(&tail.text()));
        }
    }

    #[tokio::test]
    async fn what_is_kept_begins_with_a_whole_line() {
        let tail = Tail::default();
        let text: String = (0..2_000).map(|line| format!("line {line}\n")).collect();
        pass_on(text.as_bytes(), tokio::io::sink(), tail.clone()).await;
        let kept = tail.text();
        assert!(kept.len() <= KEPT && kept.starts_with("line "), "{kept}");
        assert!(kept.ends_with("line 1999\n"));
    }
}
