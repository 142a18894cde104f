//! Identifies ZIP containers by their entries: Office, iWork and EPUB documents, Wallet passes,
//! programs, or plain archives.

use super::archive::{Archive, Entry};
use super::bounded_reader::BoundedReader;
use super::office;
use super::sniff::Detected;
use memchr::memmem;
use std::io::{self, Read, Seek};

/// Facts about a ZIP container, gathered from its central directory.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Default)]
struct Inside {
    content_types: Option<Entry>,
    relationships: Option<Entry>,
    mimetype: Option<Entry>,
    index_xml: Option<Entry>,
    index_zip: Option<Entry>,
    program: Option<&'static str>,
    jar: bool,
    macros: bool,
    container: bool,
    opf: bool,
    pass: bool,
    manifest: bool,
    apxl: bool,
    iwa: bool,
    slides: bool,
}

impl Inside {
    fn note(&mut self, name: &[u8], entry: Entry) {
        // Some archives have entries for directories too; they say nothing about the type.
        if name.ends_with(b"/") {
            return;
        }
        let lower = name.to_ascii_lowercase();
        match lower.as_slice() {
            b"[content_types].xml" => self.content_types = Some(entry),
            b"_rels/.rels" => self.relationships = Some(entry),
            b"mimetype" => self.mimetype = Some(entry),
            b"index.xml" => self.index_xml = Some(entry),
            b"index.zip" => self.index_zip = Some(entry),
            b"index.apxl" => self.apxl = true,
            b"meta-inf/container.xml" => self.container = true,
            b"meta-inf/manifest.mf" => self.jar = true,
            b"androidmanifest.xml" | b"classes.dex" => self.program = Some("an Android program"),
            b"appxmanifest.xml" | b"appxmetadata/appxbundlemanifest.xml" => {
                self.program = Some("a Windows program");
            }
            b"pass.json" => self.pass = true,
            b"manifest.json" => self.manifest = true,
            path if path.ends_with(b".class") || path.ends_with(b".dex") => {
                self.program = self.program.or(Some("a Java archive"));
            }
            path if path.starts_with(b"payload/") && memmem::find(path, b".app/").is_some() => {
                self.program = Some("an iPhone program");
            }
            path if path.ends_with(b"/vbaproject.bin") => self.macros = true,
            path if path.ends_with(b".opf") => self.opf = true,
            path if path.ends_with(b".iwa") => self.index(path),
            _ => {}
        }
    }

    /// Records an entry that is part of an iWork document (2013 and later).
    fn index(&mut self, path: &[u8]) {
        let Some(part) = path.strip_prefix(b"index/") else {
            return;
        };
        self.iwa = true;
        self.slides |= [b"slide".as_slice(), b"masterslide", b"templateslide"]
            .iter()
            .any(|name| part.starts_with(name));
    }
}

/// Identifies the type of a file that is a ZIP archive.
pub(super) fn identify<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Detected> {
    let len = source.len();
    let Some(archive) = Archive::open(source, 0, len)? else {
        return Ok(Detected::Damaged(
            "a ZIP archive without a readable directory",
        ));
    };
    let mut inside = Inside::default();
    archive.walk(source, |name, entry| inside.note(name, entry))?;

    if let Some(program) = inside.program {
        return Ok(Detected::Unsupported(program));
    }
    if let Some(entry) = inside.mimetype
        && let Some(content) = declared(&archive.read(source, entry)?)
    {
        return Ok(content);
    }
    if let Some(entry) = inside.content_types {
        let types = archive.read(source, entry)?;
        let relationships = match inside.relationships {
            Some(entry) => archive.read(source, entry)?,
            None => Vec::new(),
        };
        if let Some(content) = office::identify(&types, &relationships, inside.macros) {
            return Ok(content);
        }
    }
    if inside.container && inside.opf {
        return Ok(Detected::of("application/epub+zip"));
    }
    // EPUB books made with Java's own tools have a Java manifest too, so EPUB is tested before JAR.
    if inside.jar {
        return Ok(Detected::Unsupported("a Java archive"));
    }
    if inside.pass && inside.manifest {
        return Ok(Detected::of("application/vnd.apple.pkpass"));
    }
    if let Some(entry) = inside.index_zip
        && let Some(nested) = archive.nested(source, entry)?
    {
        nested.walk(source, |name, _| inside.index(&name.to_ascii_lowercase()))?;
    }
    if inside.slides || inside.apxl {
        return Ok(Detected::of("application/x-iwork-keynote-sffkey"));
    }
    if inside.iwa {
        return Ok(Detected::either(
            "application/x-iwork-pages-sffpages",
            "application/x-iwork-numbers-sffnumbers",
        ));
    }
    if let Some(entry) = inside.index_xml
        && let Some(content) = iwork(&archive.read(source, entry)?)
    {
        return Ok(content);
    }
    Ok(Detected::of("application/zip"))
}

/// Identifies a document by its `mimetype` entry (EPUB OCF section 4.2.2, `OpenDocument` part 2
/// section 3.3).
fn declared(mimetype: &[u8]) -> Option<Detected> {
    let mimetype = mimetype.trim_ascii();
    let starts = |prefix: &[u8]| {
        mimetype
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if starts(b"application/epub+zip") {
        Some(Detected::of("application/epub+zip"))
    } else if starts(b"application/vnd.oasis.opendocument") || starts(b"application/vnd.sun.xml") {
        Some(Detected::Unsupported("an OpenDocument file"))
    } else {
        None
    }
}

/// Identifies an iWork '09 document by the namespace of its XML root element.
fn iwork(index: &[u8]) -> Option<Detected> {
    let start = &index[..index.len().min(4096)];
    let has = |part: &str| memmem::find(start, part.as_bytes()).is_some();
    if has("<sl:document") && has("http://developer.apple.com/namespaces/sl\"") {
        Some(Detected::of("application/x-iwork-pages-sffpages"))
    } else if has("<ls:document") && has("http://developer.apple.com/namespaces/ls\"") {
        Some(Detected::of("application/x-iwork-numbers-sffnumbers"))
    } else {
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::{Cursor, Write};
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    const TYPES: &str = "<Types><Override PartName='/a.xml' ContentType='application/vnd.";

    type Entries<'a> = &'a [(&'a str, &'a [u8])];

    pub(in crate::media) fn archive<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        method: CompressionMethod,
    ) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            let options = SimpleFileOptions::default().compression_method(method);
            writer.start_file(name, options).expect("in-memory I/O");
            writer.write_all(content).expect("in-memory I/O");
        }
        writer.finish().expect("in-memory I/O").into_inner()
    }

    pub(in crate::media) fn found(bytes: impl AsRef<[u8]>) -> Detected {
        identify(&mut BoundedReader::new(Cursor::new(bytes)).expect("in-memory I/O"))
            .expect("in-memory I/O")
    }

    /// Asserts that archives with these entries, stored and compressed, are identified as expected.
    fn assert_found(cases: &[(Entries<'_>, Detected)]) {
        for (entries, expected) in cases {
            for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
                assert_eq!(
                    found(archive(entries.iter().copied(), method)),
                    *expected,
                    "{entries:?}"
                );
            }
        }
    }

    #[test]
    fn office_document_is_identified_by_content_types() {
        const NAME: &str = "[Content_Types].xml";
        let types = |main: &str| format!("{TYPES}{main}'/></Types>");
        let word = types("openxmlformats-officedocument.wordprocessingml.document.main+xml");
        let embedding = word.replace("</Types>", "")
            + "<Default Extension='xlsx' \
            ContentType='application/vnd.openxmlformats-officedocument.spreadsheetml.sheet'/>";
        let wide: Vec<u8> = word.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let macros = types("ms-word.document.macroEnabled.main+xml");
        let binary = types("ms-excel.sheet.binary.macroEnabled.main");
        let template = types("openxmlformats-officedocument.wordprocessingml.template.main+xml");
        let show = types("openxmlformats-officedocument.presentationml.slideshow.main+xml");
        let other = types("nothing");
        let docx =
            Detected::of("application/vnd.openxmlformats-officedocument.wordprocessingml.document");
        let with_macros = Detected::Unsupported("an Office document with macros");
        let zip = Detected::of("application/zip");
        assert_found(&[
            (&[(NAME, word.as_bytes())], docx),
            (
                &[("a", b"a"), ("[content_types].XML", word.as_bytes())],
                docx,
            ),
            (&[(NAME, embedding.as_bytes())], docx),
            (&[(NAME, &wide)], docx),
            (
                &[("META-INF/MANIFEST.MF", b""), (NAME, word.as_bytes())],
                docx,
            ),
            (&[(NAME, macros.as_bytes())], with_macros),
            (
                &[(NAME, word.as_bytes()), ("word/vbaProject.bin", b"")],
                with_macros,
            ),
            (
                &[(NAME, binary.as_bytes())],
                Detected::Unsupported("a binary Excel workbook"),
            ),
            (
                &[(NAME, template.as_bytes())],
                Detected::Unsupported("an Office template"),
            ),
            (
                &[(NAME, show.as_bytes())],
                Detected::Unsupported("a PowerPoint slide show"),
            ),
            (&[(NAME, other.as_bytes())], zip),
            (&[("x/[Content_Types].xml", word.as_bytes())], zip),
        ]);
    }

    #[test]
    fn books_passes_and_programs_are_identified_by_their_entries() {
        let (zip, epub) = (
            Detected::of("application/zip"),
            Detected::of("application/epub+zip"),
        );
        let pass = Detected::of("application/vnd.apple.pkpass");
        let java = Detected::Unsupported("a Java archive");
        assert_found(&[
            (&[("mimetype", b"application/epub+zip")], epub),
            (
                &[("a", b""), ("mimetype", b" application/epub+zip\r\n")],
                epub,
            ),
            (
                &[("META-INF/container.xml", b""), ("OEBPS/a.opf", b"")],
                epub,
            ),
            (
                &[("mimetype", b"application/vnd.oasis.opendocument.text")],
                Detected::Unsupported("an OpenDocument file"),
            ),
            (&[("mimetype", b"text/plain")], zip),
            (&[("pass.json", b"{}"), ("manifest.json", b"{}")], pass),
            (&[("pass.json", b"{}")], zip),
            (&[("a.pkpass", b""), ("b.pkpass", b"")], zip),
            (&[("META-INF/MANIFEST.MF", b"")], java),
            (
                &[("mimetype", b"application/epub+zip"), ("A.class", b"")],
                java,
            ),
            (
                &[("Payload/A.app/A", b"")],
                Detected::Unsupported("an iPhone program"),
            ),
        ]);
    }

    #[test]
    fn iwork_document_is_identified_by_its_entries() {
        let pages = Detected::either(
            "application/x-iwork-pages-sffpages",
            "application/x-iwork-numbers-sffnumbers",
        );
        let numbers: &[u8] = b"<ls:document xmlns:ls=\"http://developer.apple.com/namespaces/ls\">";
        assert_found(&[
            (&[("Index/Document.iwa", b"")], pages),
            (
                &[("Index/Document.iwa", b""), ("Index/Slide-1.iwa", b"")],
                Detected::of("application/x-iwork-keynote-sffkey"),
            ),
            (
                &[("Letter.pages/Index/Document.iwa", b"")],
                Detected::of("application/zip"),
            ),
            (
                &[("index.xml", numbers)],
                Detected::of("application/x-iwork-numbers-sffnumbers"),
            ),
            (
                &[("index.xml", b"<document/>")],
                Detected::of("application/zip"),
            ),
        ]);
    }

    #[test]
    fn iwork_index_in_nested_archive_is_read() {
        for (entry, expected) in [
            (
                "Index/MasterSlide.iwa",
                Detected::of("application/x-iwork-keynote-sffkey"),
            ),
            (
                "Index/Document.iwa",
                Detected::either(
                    "application/x-iwork-pages-sffpages",
                    "application/x-iwork-numbers-sffnumbers",
                ),
            ),
        ] {
            let inner = archive([(entry, b"".as_slice())], CompressionMethod::Stored);
            let outer = archive(
                [("Data/a.jpg", b"a".as_slice()), ("Index.zip", &inner)],
                CompressionMethod::Stored,
            );
            assert_eq!(found(outer), expected);
        }
    }

    #[test]
    fn many_entries_and_decompression_bomb_are_read_within_bounds() {
        let names: Vec<String> = (0..70_000).map(|number| number.to_string()).collect();
        let many = archive(
            names.iter().map(|name| (name.as_str(), b"".as_slice())),
            CompressionMethod::Stored,
        );
        assert_eq!(found(&many), Detected::of("application/zip"));
        let bomb = vec![b' '; 4 * 1024 * 1024];
        let bomb = archive(
            [("[Content_Types].xml", bomb.as_slice())],
            CompressionMethod::Deflated,
        );
        assert_eq!(found(bomb), Detected::of("application/zip"));
    }

    #[test]
    fn archive_needs_its_directory_and_tolerates_surrounding_data() {
        let whole = archive(
            [("pass.json", b"{}".as_slice()), ("manifest.json", b"{}")],
            CompressionMethod::Stored,
        );
        let pass = Detected::of("application/vnd.apple.pkpass");
        let damaged = Detected::Damaged("a ZIP archive without a readable directory");
        assert_eq!(found([b"in front of it".as_slice(), &whole].concat()), pass);
        assert_eq!(found([whole.as_slice(), b"\r\n"].concat()), pass);
        assert_eq!(found(&whole[..whole.len() - 30]), damaged);
        assert_eq!(found(&whole[20..]), damaged);
        assert_eq!(found(b"PK\x05\x06"), damaged);
        assert_eq!(
            found([b"PK\x05\x06".as_slice(), &[0; 18]].concat()),
            Detected::of("application/zip")
        );
        // The central directory has an impossible size.
        let mut lying = whole.clone();
        let at = lying.len() - 10;
        lying[at..at + 4].fill(0xff);
        assert_eq!(found(&lying), damaged);
    }
}
