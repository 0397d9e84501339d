//! The page about a first business, done as it is written: by the script that gives its commands, in each of its forms.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use tokio::process::Command;
use tokio::time::Instant;

use crate::python::succeed;
use crate::report::{Report, Size};

/// The forms of the page.
const FORMS: [&str; 3] = ["http", "rust", "python"];
/// One of them, from a checkout in which nothing is built.
const DEADLINE: Duration = Duration::from_secs(3_600);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut report = Report::new("five-steps", size, seed);
    let forms = size.pick(&FORMS[..1], &FORMS[..]);
    let mut done = 0;
    for form in forms {
        let begun = Instant::now();
        let mut script = Command::new("bash");
        script
            .args(["examples/first-business/run.sh", form])
            .current_dir(&root)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let printed = succeed(&mut script, DEADLINE).await?;
        done += u8::from(printed.lines().last() == Some("the five steps work"));
        report.figure(&format!("seconds_{form}"), begun.elapsed().as_secs_f64());
    }
    report.exactly("forms_that_work", f64::from(done), size.pick(1.0, 3.0));
    Ok(report)
}
