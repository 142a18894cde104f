//! The sample files below `tests/`.

/// Reads a sample file of `tests/corpus/`, whose `manifest.tsv` records its origin and type.
pub fn corpus(name: &str) -> Vec<u8> {
    read("corpus", name)
}

/// Reads a file of `tests/faults/` that broke a decoder, as described in its `README.tsv`.
pub fn fault(name: &str) -> Vec<u8> {
    read("faults", name)
}

fn read(folder: &str, name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/{folder}/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
