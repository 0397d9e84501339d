//! What a binary says about itself before it takes another one's place: `imaccess compat`, which `imaccess upgrade` and the
//! operator's preflight ask.

use serde::{Deserialize, Serialize};

use crate::generation::Generations;

/// What a binary says about itself. Newer ones may say more; that is skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compat {
    /// Its version.
    pub version: String,
    /// What it speaks.
    pub speaks: Generations,
}

/// Whether `new` may run where `running` runs, beside `neighbour`.
///
/// # Errors
/// A sentence that says what they have nothing in common for, and what to do.
pub fn compatible(new: &Compat, running: &Compat, neighbour: Option<&Compat>) -> Result<(), String> {
    let strange = new.speaks.strange_to(&running.speaks);
    if !strange.is_empty() {
        return Err(format!(
            "version {} can't take the place of version {}, which runs: they have nothing in common for {}. Upgrade to \
             a version between the two first",
            new.version,
            running.version,
            strange.join(", ")
        ));
    }
    let Some(beside) = neighbour else { return Ok(()) };
    let strange = new.speaks.strange_to(&beside.speaks);
    if strange.is_empty() {
        return Ok(());
    }
    Err(format!(
        "version {} can't work with version {}, which runs beside it: they have nothing in common for {}. Upgrade that \
         one first",
        new.version,
        beside.version,
        strange.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Span;

    #[test]
    fn a_binary_must_share_a_generation_with_the_one_that_runs_and_the_one_beside() {
        let speaking = |version: &str, oldest, newest| {
            let span = Span::new(oldest, newest);
            Compat {
                version: version.to_owned(),
                speaks: Generations {
                    link: span,
                    custody: Span::new(1, 1),
                    volume: Span::new(1, 1),
                    lease: Span::new(1, 1),
                    ticket: Span::new(1, 2),
                },
            }
        };
        let (one, two, four) = (
            speaking("1.0", 1, 2),
            speaking("2.0", 2, 3),
            speaking("4.0", 4, 5),
        );
        assert_eq!(compatible(&two, &one, Some(&one)), Ok(()));
        assert_eq!(compatible(&one, &two, None), Ok(()));
        let fault = compatible(&four, &one, None).unwrap_err();
        for part in ["4.0", "1.0", "link (generations 4-5 and 1-2)", "between"] {
            assert!(fault.contains(part), "{fault}");
        }
        let three = speaking("3.0", 3, 4);
        let fault = compatible(&three, &two, Some(&one)).unwrap_err();
        assert!(fault.contains("beside") && fault.contains("1.0"), "{fault}");
    }
}
