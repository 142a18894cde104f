//! The source code of haversack, for tests that check its structure.

use std::path::Path;

/// Returns path and text of every Rust file below `src/`, with paths relative to it, in order.
pub fn source_files() -> Vec<(String, String)> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../src"));
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below src");
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                files.push((name.to_str().expect("UTF-8").to_owned(), text));
            }
        }
    }
    files.sort();
    files
}
