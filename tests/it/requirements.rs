//! A row number in the code leads to its row in `docs/requirements.md`, and a row to tests that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

/// The files below a folder of the crate.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn texts(folders: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = folders.iter().flat_map(|folder| files(&root.join(folder)));
    files.map(|file| fs::read_to_string(file).unwrap() + "\n").collect()
}

fn all<'a>(pattern: &str, text: &'a str) -> BTreeSet<&'a str> {
    let regex = Regex::new(pattern).unwrap();
    regex.captures_iter(text).map(|found| found.get(1).unwrap().as_str()).collect()
}

/// Each row of the table, with the tests that it names.
fn rows(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let row = Regex::new(r"(?m)^\| ([0-4]-\d\d) \|.*\|([^|]*)\|$").unwrap();
    let named = |cell| all(r"`(?:\w+::)*(\w+)`", cell);
    row.captures_iter(text)
        .map(|row| (row.get(1).unwrap().as_str(), named(row.get(2).unwrap().as_str())))
        .collect()
}

#[test]
fn each_row_that_is_cited_is_written_down_and_each_test_that_is_named_exists() {
    let cited = texts(&["src", "proto", "migrations", "tests"]);
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/requirements.md"))
            .unwrap();
    let rows = rows(&document);

    let dangling =
        all(r"\b([0-4]-\d\d)\b", &cited).into_iter().filter(|row| !rows.contains_key(row));
    let functions = all(r"fn (\w+)\(", &cited);
    let missing = rows.iter().flat_map(|(row, tests)| {
        let lost = tests.iter().filter(|test| !functions.contains(**test));
        lost.map(move |test| format!("{row}: {test}"))
    });
    let untested = rows.iter().filter(|(_, tests)| tests.is_empty()).map(|(row, _)| *row);

    assert_eq!(dangling.collect::<Vec<_>>(), [""; 0], "cited, but without a row");
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0], "named, but not there");
    assert_eq!(untested.collect::<Vec<_>>(), [""; 0], "without a test");
}
