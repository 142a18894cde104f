//! The layers of the program: which module of `src/` may use which. ARCHITECTURE.md draws the same
//! arrows.
//!
//! Reads the paths (`use crate::a::b`, `crate::a::b`, `super::super::b`) from the source, outside
//! of tests.

use std::collections::BTreeSet;

use haversack_testkit::source_files;

/// Every module with the modules that it may use, from top to bottom: an edge only ever points to a
/// lower row, so the graph has no cycle. Parts of `http` are modules of their own here. [`LEAVES`]
/// need not be listed.
const MODULES: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "app",
            "config",
            "maintenance",
            "delivery",
            "partners",
            "attachments",
            "storage",
            "transcode",
            "sandbox",
            "fetch",
            "blob",
            "db",
            "http::api",
            "domain",
        ],
    ),
    (
        "app",
        &[
            "config",
            "http",
            "http::server",
            "background",
            "delivery",
            "send",
            "messages",
            "partners",
            "attachments",
            "storage",
            "transcode",
            "sandbox",
            "fetch",
            "blob",
            "db",
            "domain",
            "url_signing",
        ],
    ),
    // Assembles the configuration structs of the layers below, which do not know it.
    (
        "config",
        &[
            "http",
            "http::server",
            "background",
            "send",
            "attachments",
            "storage",
            "transcode",
            "sandbox",
            "fetch",
            "blob",
            "db",
            "domain",
        ],
    ),
    // Composes the routes.
    (
        "http",
        &[
            "http::api",
            "http::files",
            "http::ops",
            "http::middleware",
            "http::error",
            "http::state",
        ],
    ),
    ("http::server", &["domain"]),
    (
        "http::api",
        &[
            "http::middleware",
            "http::error",
            "http::state",
            "http::trace_id",
            "send",
            "messages",
            "attachments",
            "domain",
        ],
    ),
    (
        "http::files",
        &[
            "http::error",
            "http::state",
            "attachments",
            "blob",
            "domain",
        ],
    ),
    ("http::ops", &["http::state"]),
    (
        "http::middleware",
        &["http::error", "http::state", "http::trace_id", "domain"],
    ),
    (
        "http::error",
        &[
            "http::trace_id",
            "send",
            "messages",
            "partners",
            "attachments",
        ],
    ),
    (
        "http::state",
        &["send", "messages", "partners", "attachments"],
    ),
    ("http::trace_id", &[]),
    ("background", &["attachments", "db"]),
    ("delivery", &["blob", "db", "domain"]),
    ("maintenance", &["storage", "blob", "db", "domain"]),
    ("send", &["attachments", "fetch", "blob", "db", "domain"]),
    ("messages", &["db", "domain"]),
    ("partners", &["db", "domain"]),
    (
        "attachments",
        &[
            "transcode",
            "sandbox",
            "blob",
            "db",
            "url_signing",
            "domain",
        ],
    ),
    ("storage", &["blob", "db"]),
    ("transcode", &["sandbox", "blob", "domain"]),
    ("sandbox", &[]),
    ("fetch", &["domain"]),
    ("blob", &["domain"]),
    ("db", &["domain"]),
    ("url_signing", &[]),
    ("domain", &[]),
    ("budget", &["metrics"]),
    ("metrics", &[]),
    ("pace", &[]),
    ("media", &[]),
    ("quote", &[]),
    ("id", &[]),
    ("clock", &[]),
    ("setting", &[]),
];

/// Modules that every module above them may use: they know nothing of the rest of the program.
const LEAVES: &[&str] = &[
    "budget", "clock", "id", "media", "metrics", "pace", "quote", "setting",
];

/// Modules whose paths are not checked: the roots of the library and of the program.
const ROOTS: &[&str] = &["lib.rs", "main.rs"];

/// One use of a module by another, and the file of it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
    file: String,
}

#[test]
fn modules_use_only_what_the_layers_allow() {
    let allowed = |from: &str, to: &str| {
        let row = MODULES.iter().find(|(module, _)| *module == from);
        row.is_some_and(|(_, used)| used.contains(&to) || LEAVES.contains(&to))
    };
    let edges = edges();
    let forbidden: Vec<String> = edges
        .iter()
        .filter(|edge| !allowed(&edge.from, &edge.to))
        .map(|Edge { from, to, file }| format!("{from} -> {to} in src/{file}"))
        .collect();
    assert!(
        forbidden.is_empty(),
        "the layers forbid:\n{}",
        forbidden.join("\n")
    );
}

#[test]
fn table_lists_every_module_and_points_downwards() {
    let listed: Vec<&str> = MODULES.iter().map(|(module, _)| *module).collect();
    assert_eq!(
        modules(),
        listed.iter().map(|&module| module.to_owned()).collect()
    );
    for (row, (from, used)) in MODULES.iter().enumerate() {
        for to in *used {
            let below = listed[row + 1..].contains(to);
            assert!(below, "{to} is not below {from}");
        }
    }
}

#[test]
fn paths_are_found_in_source() {
    let source = r##"
        //! [`crate::comment`]
        pub(in crate::visibility) fn g() {}
        use crate::{db::Db, domain::{chat, part::Part}};
        use crate::http::api::*;
        /* crate::block /* crate::nested */ */
        fn f<'a>(x: &'a str) -> char { let _ = "crate::text"; let _ = r#"crate::"raw"#; '"' }
        impl super::super::clock::Now for crate::id::Id {}
        mod inner { use super::super::neighbour; }
        #[cfg(test)]
        use crate::{test_import};
        #[cfg(test)]
        mod tests { use crate::test_module; fn f() { "}"; } }
        #[cfg(test)]
        #[derive(Debug)]
        struct OfTests(crate::test_struct::A);
        use crate::quote;
    "##;
    let found = paths(source, &["send".to_owned(), "parts".to_owned()]);
    let expected: &[&[&str]] = &[
        &["db", "Db"],
        &["domain", "chat"],
        &["domain", "part", "Part"],
        &["http", "api", "*"],
        &["clock", "Now"],
        &["id", "Id"],
        &["send", "neighbour"],
        &["quote"],
    ];
    assert_eq!(found, expected);
}

/// Returns all uses of one module by another.
fn edges() -> BTreeSet<Edge> {
    let modules = modules();
    let mut edges = BTreeSet::new();
    for (file, source) in files() {
        let from = module(&path(&file), &modules);
        for used in paths(&source, &path(&file)) {
            let to = module(&used, &modules);
            assert!(
                modules.contains(&to),
                "src/{file} uses {used:?}, which is in no module"
            );
            if to != from {
                let (from, file) = (from.clone(), file.clone());
                edges.insert(Edge { from, to, file });
            }
        }
    }
    edges
}

/// Returns path and text of all source files but the roots and those of tests.
fn files() -> Vec<(String, String)> {
    let mut files = source_files();
    files.retain(|(file, _)| !ROOTS.contains(&file.as_str()) && !file.ends_with("tests.rs"));
    files
}

/// Returns the module path of a source file.
fn path(file: &str) -> Vec<String> {
    let file = file.strip_suffix(".rs").expect("Rust");
    let file = file.strip_suffix("/mod").unwrap_or(file);
    file.split('/').map(str::to_owned).collect()
}

/// Returns the module of the table to which a path belongs. Names in `http/mod.rs` belong to
/// `http`.
fn module(path: &[String], modules: &BTreeSet<String>) -> String {
    match path {
        [first, part, ..] => {
            let nested = format!("{first}::{part}");
            if modules.contains(&nested) {
                nested
            } else {
                first.clone()
            }
        }
        [module] => module.clone(),
        [] => String::new(),
    }
}

/// Returns all modules: the top-level ones, and those of `http`.
fn modules() -> BTreeSet<String> {
    let paths = files().into_iter().map(|(file, _)| path(&file));
    let modules = paths.map(|path| match &path[..] {
        [http, part, ..] if http == "http" => format!("http::{part}"),
        _ => path[0].clone(),
    });
    modules.collect()
}

/// Returns all paths of the crate that a source uses outside of `#[cfg(test)]`, relative to the
/// crate.
fn paths(source: &str, module: &[String]) -> Vec<Vec<String>> {
    let tokens = without_tests(&tokens(source));
    let mut paths = Vec::new();
    let mut inline: Vec<usize> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.pop_if(|opened| *opened == depth);
            }
            "mod" if tokens.get(at + 2).is_some_and(|token| token == "{") => inline.push(depth),
            // A visibility, `pub(in crate::a)`, uses nothing.
            "crate" if at >= 2 && tokens[at - 2] == "(" && tokens[at - 1] == "in" => {}
            "crate" if follows(&tokens, at) => {
                at = tree(&tokens, at + 2, &[], &mut paths);
                continue;
            }
            "super" if follows(&tokens, at) => {
                let mut up = 0;
                while tokens[at] == "super" && follows(&tokens, at) {
                    (up, at) = (up + 1, at + 2);
                }
                // A `super` that stays within the inline modules of the file is not of interest.
                if let Some(kept) = (module.len() + inline.len()).checked_sub(up)
                    && kept < module.len()
                {
                    at = tree(&tokens, at, &module[..kept], &mut paths);
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    paths
}

fn follows(tokens: &[String], at: usize) -> bool {
    tokens.get(at + 1).is_some_and(|token| token == "::")
}

/// Reads a path or a tree of paths, and returns the position behind it.
fn tree(
    tokens: &[String],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        if tokens[at] == "{" {
            at += 1;
            while tokens[at] != "}" {
                at = tree(tokens, at, &path, paths);
                if tokens[at] == "," {
                    at += 1;
                }
            }
            return at + 1;
        }
        path.push(tokens[at].clone());
        if !follows(tokens, at) || tokens.get(at + 2).is_some_and(|token| token == "<") {
            paths.push(path);
            let renamed = tokens.get(at + 1).is_some_and(|token| token == "as");
            return if renamed { at + 3 } else { at + 1 };
        }
        at += 2;
    }
}

/// Removes the items that are compiled for tests only.
fn without_tests(tokens: &[String]) -> Vec<String> {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].starts_with(&ATTRIBUTE.map(str::to_owned)) {
            at = item_end(tokens, at + ATTRIBUTE.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Returns the position behind the item that begins here: after its `;`, or after the `}` of its
/// body.
fn item_end(tokens: &[String], start: usize) -> usize {
    let mut depth = 0;
    let mut is_import = false;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.as_str() {
            "use" if depth == 0 => is_import = true,
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && (token == ";" || token == "}" && !is_import) {
            return at + 1;
        }
    }
    tokens.len()
}

/// Splits a source into words, `::` and other characters, without comments, literals and lifetimes.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let word = &rest[..end.unwrap_or(rest.len())];
            raw_string(rest, word).unwrap_or_else(|| {
                tokens.push(word.to_owned());
                word.len()
            })
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            quoted(rest)
        } else if first == '\'' {
            character(rest)
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// Returns the length of the raw string that begins here, if one does.
fn raw_string(rest: &str, word: &str) -> Option<usize> {
    if !matches!(word, "r" | "br" | "cr") {
        return None;
    }
    let hashes = rest[word.len()..].chars().take_while(|c| *c == '#').count();
    let start = word.len() + hashes;
    let body = rest[start..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(start + 1 + body.find(&end).expect("an end") + end.len())
}

/// Returns the length of a block comment, which may contain others.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        let tail = &rest[at..];
        match (tail.starts_with("/*"), tail.starts_with("*/")) {
            (true, _) => (depth, at) = (depth + 1, at + 2),
            (_, true) => (depth, at) = (depth - 1, at + 2),
            _ => at += tail.chars().next().expect("an end").len_utf8(),
        }
        if depth == 0 {
            return at;
        }
    }
}

/// Returns the length of a string.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// Returns the length of a character, or of the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    let (_, first) = characters.next().expect("a character");
    let end = if first == '\\' {
        characters.next();
        characters.find(|(_, c)| *c == '\'')
    } else {
        characters.next().filter(|(_, c)| *c == '\'')
    };
    end.map_or(1, |(at, _)| at + 1)
}
