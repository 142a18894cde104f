//! The documentation against the repository: links, paths of files, log messages and metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use haversack::metrics::{Metrics, RequestLabels};
use haversack_testkit::source_files;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all files with this extension below a folder.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry"))
    {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// Returns path and text of all pages: in the root, and below `docs/`, `bench/`, `tests/` and
/// `migrations/`.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = files(&root().join("docs"), "md");
    for folder in ["bench", "tests/sdk", "migrations"] {
        paths.extend(files(&root().join(folder), "md"));
    }
    let in_root = fs::read_dir(root()).expect("the root");
    paths.extend(
        in_root
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "md")),
    );
    paths
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).expect("a page")))
        .collect()
}

/// Returns the lines of a page outside of fenced code blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Returns the code spans of a line.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Returns the anchors of a page's headings, as GitHub derives them.
fn anchors(page: &str) -> BTreeSet<String> {
    prose(page)
        .filter_map(|line| {
            line.trim_start_matches('#')
                .strip_prefix(' ')
                .filter(|_| line.starts_with('#'))
        })
        .map(|heading| {
            heading
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// Returns the targets of a page's links, without URLs and code.
fn links(page: &str) -> Vec<String> {
    let text: Vec<&str> = prose(page).collect();
    let text: String = text.join(" ").split('`').step_by(2).collect();
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains(':'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn links_of_the_pages_resolve() {
    let mut broken = Vec::new();
    for (path, page) in pages() {
        for link in links(&page) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.parent().expect("a folder").join(file)
            };
            let has_anchor = || {
                let text = fs::read_to_string(&target).expect("a page");
                anchor.is_empty() || anchors(&text).contains(anchor)
            };
            if !target.exists() || (target.is_file() && !has_anchor()) {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn files_named_in_the_pages_exist() {
    let mut missing = Vec::new();
    for (path, page) in pages() {
        for name in prose(&page).flat_map(code_spans) {
            let is_path = [
                "src/",
                "tests/",
                "testkit/",
                "docs/",
                "bench/",
                "fuzz/",
                "migrations/",
            ]
            .iter()
            .any(|folder| name.starts_with(folder));
            let is_literal = !name.contains(['{', '<', '*', ' ']);
            if is_path && is_literal && !root().join(name).exists() {
                missing.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn pages_named_in_the_code_exist() {
    let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    let mut missing = Vec::new();
    for (path, text) in source_files() {
        for (at, _) in text.match_indices("docs/") {
            let name = text[at..].split(|c| !is_path(c)).next().expect("a word");
            let is_page = Path::new(name).extension().is_some();
            if is_page && !root().join(name.trim_end_matches('.')).exists() {
                missing.push(format!("src/{path}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn settings_named_in_the_pages_exist() {
    let settings = include_str!("../../docs/reference/configuration.md");
    let mut unknown = Vec::new();
    for (path, page) in pages() {
        // Names variables of tests as well.
        if path.ends_with("CONTRIBUTING.md") || path.starts_with(root().join("bench")) {
            continue;
        }
        for rest in page.split("HAVERSACK_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_');
            let name = format!("`HAVERSACK_{}`", &rest[..end.unwrap_or(rest.len())]);
            if !settings.contains(&name) {
                unknown.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn documented_log_messages_occur_in_the_code() {
    let source: String = source_files().into_iter().map(|(_, text)| text).collect();
    let page = include_str!("../../docs/logging.md");
    let table = page
        .split("## Messages")
        .nth(1)
        .expect("a table of messages");
    let messages: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split('|').nth(2))
        .flat_map(code_spans)
        .collect();
    assert!(messages.len() > 20, "{messages:?}");
    let unknown: Vec<_> = messages
        .iter()
        .filter(|message| !source.contains(&format!("\"{message}\"")))
        .collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn documented_metrics_are_the_exported_ones() {
    let page = include_str!("../../docs/reference/metrics.md");
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `haversack_"))
        .filter_map(|line| line.split('`').next())
        .map(|name| name.trim_end_matches("_total"))
        .collect();
    // A series with labels is exported once it has counted something.
    let metrics = Metrics::default();
    metrics.request(
        &RequestLabels {
            route: "/".to_owned(),
            method: "GET",
            status: 200,
        },
        Duration::ZERO,
    );
    metrics.upload("stored");
    metrics.inspected("image/png");
    metrics.fetch("fetched", Duration::ZERO);
    metrics.message("sent");
    drop(metrics.budget("fetches", 1));
    let rendered = metrics.render();
    let exported: BTreeSet<&str> = rendered
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE haversack_"))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(documented, exported);
}
