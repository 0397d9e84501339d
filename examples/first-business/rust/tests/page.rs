//! `docs/first-business.md` shows these files as they are, and `run.sh` gives the commands that it gives.

use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block of the page.
struct Block {
    /// The file that it shows, by the comment before it.
    file: Option<String>,
    language: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn blocks() -> Vec<Block> {
    let page = read("docs/first-business.md");
    let mut blocks = Vec::new();
    let (mut file, mut lines) = (None, page.lines());
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block {
                file: file.take(),
                language: language.to_owned(),
                text: text.join("\n"),
            });
        } else {
            let named = line
                .strip_prefix("<!-- file: ")
                .and_then(|rest| rest.strip_suffix(" -->"));
            file = named.map(str::to_owned);
        }
    }
    blocks
}

#[test]
fn the_page_shows_the_files_as_they_are() {
    let shown: Vec<Block> = blocks()
        .into_iter()
        .filter(|block| block.file.is_some())
        .collect();
    for block in &shown {
        let file = block.file.as_deref().unwrap();
        assert_eq!(
            block.text,
            read(file).trim_end(),
            "docs/first-business.md shows another {file}"
        );
    }
    // And none of them is left out.
    for (directory, ending) in [
        ("rust", "toml"),
        ("rust/src", "rs"),
        ("python", "py"),
        ("python", "txt"),
    ] {
        let directory = format!("examples/first-business/{directory}");
        for entry in fs::read_dir(root().join(&directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if Path::new(&name).extension().is_some_and(|found| found == ending) {
                let path = format!("{directory}/{name}");
                let is_shown = shown.iter().any(|block| block.file.as_deref() == Some(&path));
                assert!(is_shown, "docs/first-business.md doesn't show {path}");
            }
        }
    }
}

#[test]
fn the_commands_of_the_page_are_those_that_are_run() {
    let script = read("examples/first-business/run.sh");
    let run: Vec<&str> = script.lines().map(str::trim).collect();
    let mut given = 0;
    for block in blocks().iter().filter(|block| block.language == "sh") {
        for command in block.text.lines() {
            assert!(
                run.iter().any(|line| line.starts_with(command)),
                "run.sh doesn't give {command:?}"
            );
            given += 1;
        }
    }
    assert!(given > 10, "{given} commands on the page");
}
