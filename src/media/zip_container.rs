//! Identifies ZIP containers by their entries: Office, iWork and EPUB documents, Wallet passes, programs,
//! or plain archives.

use super::archive::{Archive, Entry};
use super::bounded_reader::BoundedReader;
use super::sniff::Detected;
use memchr::memmem;
use std::io::{self, Read, Seek};

/// Facts gathered from the central directory.
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
        // Some archives have entries for directories too.
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
                self.program = Some("a Windows program")
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

    /// Records a part of an iWork document (2013 and later).
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

/// Identifies a file that is a ZIP archive.
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
        if let Some(content) = office(&types, &relationships, inside.macros) {
            return Ok(content);
        }
    }
    if inside.container && inside.opf {
        return Ok(Detected::of("application/epub+zip"));
    }
    // EPUB books made with Java's own tools have this manifest too, so they are tested first.
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

/// Interprets the `mimetype` entry (EPUB OCF section 4.2.2, `OpenDocument` part 2 section 3.3).
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

/// Identifies an Office document by its main part (ECMA-376 part 2 sections 6.5 and 7.2.3): the
/// relationships of the package name the part, and `[Content_Types].xml` gives its type. Embedded documents
/// and templates are listed there too, and do not count.
fn office(types: &[u8], relationships: &[u8], macros: bool) -> Option<Detected> {
    let types = plain(types);
    let types: Vec<Tag<'_>> = tags(&types).collect();
    let declared = |name: &'static [u8]| types.iter().filter(move |tag| tag.name == name);
    let content_type = |tag: &Tag<'_>| {
        tag.attribute(b"contenttype")
            .map(|value| value.trim_ascii().to_vec())
    };

    let relationships = plain(relationships);
    let target = tags(&relationships)
        .filter(|tag| {
            tag.name == b"relationship" && tag.attribute(b"targetmode") != Some(b"external")
        })
        .find(|tag| {
            tag.attribute(b"type")
                .is_some_and(|kind| kind.ends_with(b"/relationships/officedocument"))
        })
        .and_then(|tag| tag.attribute(b"target"));
    let named = target.and_then(|target| {
        let target = target
            .strip_prefix(b"./")
            .or(target.strip_prefix(b"/"))
            .unwrap_or(target);
        let part = |tag: &&Tag<'_>| {
            tag.attribute(b"partname")
                .and_then(|name| name.strip_prefix(b"/"))
                == Some(target)
        };
        declared(b"override").find(part).and_then(content_type)
    });
    // If the name is spelled differently, or the type is that of an extension, take the first type that
    // belongs to a main part.
    let kind = named.or_else(|| {
        let all = declared(b"override").chain(declared(b"default"));
        all.filter_map(content_type)
            .find(|kind| main_part(kind).is_some())
    });
    match kind.as_deref().and_then(main_part) {
        Some(Detected::Binary { .. }) | None if macros => Some(MACROS),
        Some(content) => Some(content),
        None => {
            let has = |part: &[u8]| {
                types
                    .iter()
                    .filter_map(content_type)
                    .any(|kind| memmem::find(&kind, part).is_some())
            };
            if has(b"ms-visio.") {
                Some(Detected::Unsupported("a Visio drawing"))
            } else if has(b"ms-package.xps") || has(b"openxps") {
                Some(Detected::Unsupported("an XPS document"))
            } else {
                None
            }
        }
    }
}

const MACROS: Detected = Detected::Unsupported("an Office document with macros");

/// Maps the content type of a main part, in lower case, to the document. Returns `None` for types of other
/// parts.
fn main_part(kind: &[u8]) -> Option<Detected> {
    const DOCUMENT: &str = "application/vnd.openxmlformats-officedocument.";
    if kind == b"application/vnd.ms-excel.sheet.binary.macroenabled.main" {
        return Some(Detected::Unsupported("a binary Excel workbook"));
    }
    let kind = kind.strip_suffix(b".main+xml")?;
    if memmem::find(kind, b"macroenabled").is_some() {
        return Some(MACROS);
    }
    match kind.strip_prefix(DOCUMENT.as_bytes())? {
        b"wordprocessingml.document" => Some(Detected::of(
            &(DOCUMENT.to_owned() + "wordprocessingml.document"),
        )),
        b"spreadsheetml.sheet" => {
            Some(Detected::of(&(DOCUMENT.to_owned() + "spreadsheetml.sheet")))
        }
        b"presentationml.presentation" => Some(Detected::of(
            &(DOCUMENT.to_owned() + "presentationml.presentation"),
        )),
        b"presentationml.slideshow" => Some(Detected::Unsupported("a PowerPoint slide show")),
        other if other.ends_with(b"template") => Some(Detected::Unsupported("an Office template")),
        _ => None,
    }
}

/// Reduces XML to lower case and one byte per character: in UTF-16, every other byte of ASCII is 0.
fn plain(xml: &[u8]) -> Vec<u8> {
    xml.iter()
        .filter(|&&byte| byte != 0)
        .map(u8::to_ascii_lowercase)
        .collect()
}

/// An XML start tag.
#[derive(Clone, Copy, Debug)]
struct Tag<'a> {
    /// Name without the namespace prefix.
    name: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Tag<'a> {
    /// Returns the value of an attribute as written. Content types have no characters that need escaping.
    fn attribute(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        let mut rest = self.rest;
        loop {
            let equals = memchr::memchr(b'=', rest)?;
            let name = rest[..equals].trim_ascii();
            let (&quote, value) = rest[equals + 1..].trim_ascii_start().split_first()?;
            let end = memchr::memchr(quote, value).filter(|_| matches!(quote, b'"' | b'\''))?;
            if name == wanted {
                return Some(&value[..end]);
            }
            rest = &value[end + 1..];
        }
    }
}

/// Iterates over the start tags in XML, skipping those in comments and character data.
fn tags(mut rest: &[u8]) -> impl Iterator<Item = Tag<'_>> {
    std::iter::from_fn(move || {
        loop {
            rest = &rest[memchr::memchr(b'<', rest)? + 1..];
            let end: &[u8] = if rest.starts_with(b"!--") {
                b"-->"
            } else if rest.starts_with(b"![cdata[") {
                b"]]>"
            } else if rest.starts_with(b"?") {
                b"?>"
            } else if rest.starts_with(b"!") || rest.starts_with(b"/") {
                b">"
            } else {
                break;
            };
            rest = &rest[memmem::find(rest, end)? + end.len()..];
        }
        let tag = rest;
        let mut at = 0;
        loop {
            at += memchr::memchr3(b'>', b'"', b'\'', &tag[at..])?;
            match tag[at] {
                b'>' => break,
                quote => at += memchr::memchr(quote, &tag[at + 1..])? + 2,
            }
        }
        rest = &tag[at + 1..];
        let tag = &tag[..at];
        let (name, attributes) =
            tag.split_at(tag.iter().position(u8::is_ascii_whitespace).unwrap_or(at));
        let local = name.rsplit(|&byte| byte == b':').next().unwrap_or(name);
        Some(Tag {
            name: local.strip_suffix(b"/").unwrap_or(local),
            rest: attributes,
        })
    })
}

/// Identifies an iWork '09 document by the namespace of its root element.
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
mod tests {
    use super::*;
    use std::io::{Cursor, Write};
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    const TYPES: &str = "<Types><Override PartName='/a.xml' ContentType='application/vnd.";

    type Entries<'a> = &'a [(&'a str, &'a [u8])];

    fn archive<'a>(
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

    fn found(bytes: impl AsRef<[u8]>) -> Detected {
        identify(&mut BoundedReader::new(Cursor::new(bytes)).expect("in-memory I/O"))
            .expect("in-memory I/O")
    }

    #[test]
    fn packages_are_identified_by_their_entries() {
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
        let zip = Detected::of("application/zip");
        let keynote = Detected::of("application/x-iwork-keynote-sffkey");
        let pages = Detected::either(
            "application/x-iwork-pages-sffpages",
            "application/x-iwork-numbers-sffnumbers",
        );
        let cases: [(Entries<'_>, Detected); 28] = [
            (&[("[Content_Types].xml", word.as_bytes())], docx),
            (
                &[("a", b"a"), ("[content_types].XML", word.as_bytes())],
                docx,
            ),
            (&[("[Content_Types].xml", embedding.as_bytes())], docx),
            (&[("[Content_Types].xml", &wide)], docx),
            (
                &[
                    ("META-INF/MANIFEST.MF", b""),
                    ("[Content_Types].xml", word.as_bytes()),
                ],
                docx,
            ),
            (
                &[("[Content_Types].xml", macros.as_bytes())],
                Detected::Unsupported("an Office document with macros"),
            ),
            (
                &[
                    ("[Content_Types].xml", word.as_bytes()),
                    ("word/vbaProject.bin", b""),
                ],
                Detected::Unsupported("an Office document with macros"),
            ),
            (
                &[("[Content_Types].xml", binary.as_bytes())],
                Detected::Unsupported("a binary Excel workbook"),
            ),
            (
                &[("[Content_Types].xml", template.as_bytes())],
                Detected::Unsupported("an Office template"),
            ),
            (
                &[("[Content_Types].xml", show.as_bytes())],
                Detected::Unsupported("a PowerPoint slide show"),
            ),
            (&[("[Content_Types].xml", other.as_bytes())], zip),
            (&[("x/[Content_Types].xml", word.as_bytes())], zip),
            (
                &[("mimetype", b"application/epub+zip")],
                Detected::of("application/epub+zip"),
            ),
            (
                &[("a", b""), ("mimetype", b" application/epub+zip\r\n")],
                Detected::of("application/epub+zip"),
            ),
            (
                &[("META-INF/container.xml", b""), ("OEBPS/a.opf", b"")],
                Detected::of("application/epub+zip"),
            ),
            (
                &[("mimetype", b"application/vnd.oasis.opendocument.text")],
                Detected::Unsupported("an OpenDocument file"),
            ),
            (&[("mimetype", b"text/plain")], zip),
            (
                &[("pass.json", b"{}"), ("manifest.json", b"{}")],
                Detected::of("application/vnd.apple.pkpass"),
            ),
            (&[("pass.json", b"{}")], zip),
            (&[("a.pkpass", b""), ("b.pkpass", b"")], zip),
            (
                &[("META-INF/MANIFEST.MF", b"")],
                Detected::Unsupported("a Java archive"),
            ),
            (
                &[("mimetype", b"application/epub+zip"), ("A.class", b"")],
                Detected::Unsupported("a Java archive"),
            ),
            (
                &[("Payload/A.app/A", b"")],
                Detected::Unsupported("an iPhone program"),
            ),
            (&[("Index/Document.iwa", b"")], pages),
            (
                &[("Index/Document.iwa", b""), ("Index/Slide-1.iwa", b"")],
                keynote,
            ),
            (&[("Letter.pages/Index/Document.iwa", b"")], zip),
            (
                &[(
                    "index.xml",
                    b"<ls:document xmlns:ls=\"http://developer.apple.com/namespaces/ls\">",
                )],
                Detected::of("application/x-iwork-numbers-sffnumbers"),
            ),
            (&[("index.xml", b"<document/>")], zip),
        ];
        for (entries, expected) in cases {
            for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
                assert_eq!(
                    found(archive(entries.iter().copied(), method)),
                    expected,
                    "{entries:?}"
                );
            }
        }
    }

    #[test]
    fn office_document_is_identified_by_its_main_part() {
        const WORD: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.";
        const SLIDES: &str = "application/vnd.openxmlformats-officedocument.presentationml.";
        let part = |name: &str, kind: &str| {
            format!("<Override ContentType = \"{kind}\" PartName='{name}' />")
        };
        let relation = |target: &str, mode: &str| {
            format!(
                "<?xml version='1.0'?><r:Relationships><!-- > --><r:Relationship Id='a' {mode} \
                 Type='http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument' \
                 Target='{target}'/></r:Relationships>"
            )
        };
        let word = part("/word/document.xml", &format!("{WORD}document.main+xml"));
        let slides = part(
            "/ppt/presentation.xml",
            &format!("{SLIDES}presentation.main+xml"),
        );
        let template = part("/word/document.xml", &format!("{WORD}template.main+xml"));
        let embedded = "<Default Extension='xlsb' \
            ContentType='application/vnd.ms-excel.sheet.binary.macroEnabled.12'/>\
            <Default Extension='vsdx' ContentType='application/vnd.ms-visio.drawing'/>";
        let defaults = format!("<Default Extension='xml' ContentType='{WORD}document.main+xml'/>");
        let macros = part(
            "/word/document.xml",
            "application/vnd.ms-word.document.macroEnabled.main+xml",
        );
        let docx =
            Detected::of("application/vnd.openxmlformats-officedocument.wordprocessingml.document");
        let pptx = Detected::of(
            "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        );
        let refused = Detected::Unsupported("an Office template");
        let other = part("/word/other.xml", "application/xml");
        let no_rels = String::new;
        for (types, relations, expected) in [
            (embedded.to_owned() + &slides, no_rels(), pptx),
            (
                embedded.to_owned() + &word,
                relation("word/document.xml", ""),
                docx,
            ),
            (
                format!("{slides}{word}"),
                relation("/word/document.xml", ""),
                docx,
            ),
            (
                format!("{word}{slides}"),
                relation("./ppt/Presentation.xml", ""),
                pptx,
            ),
            (
                format!("{word}{slides}"),
                relation("ppt/presentation.xml", "TargetMode='External'"),
                docx,
            ),
            (format!("{word}{slides}"), relation("nowhere.bin", ""), docx),
            (
                format!("{template}{slides}"),
                relation("word/document.xml", ""),
                refused,
            ),
            (
                format!("{other}{word}"),
                relation("word/other.xml", ""),
                Detected::of("application/zip"),
            ),
            (defaults.clone(), relation("any.xml", ""), docx),
            (defaults, no_rels(), docx),
            (format!("<!-- {word} -->{template}"), no_rels(), refused),
            (
                format!("<![CDATA[ {word} ]]>{template}"),
                no_rels(),
                refused,
            ),
            (format!("<?a {word} ?>{template}"), no_rels(), refused),
            (
                format!("<a b=\"{}\"/>{template}", word.replace('"', "'")),
                no_rels(),
                refused,
            ),
            (format!("{template}<!-- {word}"), no_rels(), refused),
            (
                format!("<!-- {word} -->"),
                no_rels(),
                Detected::of("application/zip"),
            ),
            (
                macros,
                relation("word/document.xml", ""),
                Detected::Unsupported("an Office document with macros"),
            ),
            (
                word.replace("ContentType", "Type"),
                no_rels(),
                Detected::of("application/zip"),
            ),
        ] {
            let types = format!("<?xml version='1.0'?>\r\n<Types xmlns='a'>{types}</Types>");
            let entries = [
                ("[Content_Types].xml", types.as_bytes()),
                ("_rels/.rels", relations.as_bytes()),
            ];
            assert_eq!(
                found(archive(entries, CompressionMethod::Deflated)),
                expected,
                "{types} {relations}"
            );
        }
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
        // An impossible directory size.
        let mut lying = whole.clone();
        let at = lying.len() - 10;
        lying[at..at + 4].fill(0xff);
        assert_eq!(found(&lying), damaged);
    }
}
