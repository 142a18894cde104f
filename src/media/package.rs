//! What a ZIP archive is by what is in it: an Office, iWork or EPUB document, a pass, a program, or just an archive.

use super::archive::{Archive, Entry};
use super::sniff::Content;
use super::source::Source;
use memchr::memmem;
use std::io::{self, Read, Seek};

/// What the directory says.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Default)]
struct Inside {
    content_types: Option<Entry>,
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
    passes: usize,
    files: usize,
    apxl: bool,
    iwa: bool,
    slides: bool,
}

impl Inside {
    fn note(&mut self, name: &[u8], entry: Entry) {
        // Directories have entries of their own in some archives.
        if name.ends_with(b"/") {
            return;
        }
        self.files += 1;
        let lower = name.to_ascii_lowercase();
        match lower.as_slice() {
            b"[content_types].xml" => self.content_types = Some(entry),
            b"mimetype" => self.mimetype = Some(entry),
            b"index.xml" => self.index_xml = Some(entry),
            b"index.zip" => self.index_zip = Some(entry),
            b"index.apxl" => self.apxl = true,
            b"meta-inf/container.xml" => self.container = true,
            b"meta-inf/manifest.mf" => self.jar = true,
            b"androidmanifest.xml" | b"classes.dex" => self.program = Some("an Android program"),
            b"appxmanifest.xml" | b"appxmetadata/appxbundlemanifest.xml" => self.program = Some("a Windows program"),
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
            path if path.ends_with(b".pkpass") => self.passes += 1,
            path if path.ends_with(b".iwa") => self.index(path),
            _ => {}
        }
    }

    /// Notes a part of an iWork document of 2013 and later.
    fn index(&mut self, path: &[u8]) {
        let Some(part) = path.strip_prefix(b"index/") else { return };
        self.iwa = true;
        self.slides |=
            [b"slide".as_slice(), b"masterslide", b"templateslide"].iter().any(|name| part.starts_with(name));
    }
}

/// What the archive is that a file consists of.
pub(super) fn identify<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Content> {
    let len = source.len();
    let Some(archive) = Archive::open(source, 0, len)? else {
        return Ok(Content::Damaged("a ZIP archive without a readable directory"));
    };
    let mut inside = Inside::default();
    archive.walk(source, |name, entry| inside.note(name, entry))?;

    if let Some(program) = inside.program {
        return Ok(Content::Refused(program));
    }
    if let Some(entry) = inside.mimetype
        && let Some(content) = declared(&archive.read(source, entry)?)
    {
        return Ok(content);
    }
    if let Some(entry) = inside.content_types
        && let Some(content) = office(&archive.read(source, entry)?, inside.macros)
    {
        return Ok(content);
    }
    if inside.container && inside.opf {
        return Ok(Content::of("application/epub+zip"));
    }
    // Books made with Java's own tools have a manifest too, so this comes after them.
    if inside.jar {
        return Ok(Content::Refused("a Java archive"));
    }
    if inside.pass && inside.manifest {
        return Ok(Content::of("application/vnd.apple.pkpass"));
    }
    if inside.passes > 0 && inside.passes == inside.files {
        return Ok(Content::Refused("a bundle of Wallet passes"));
    }
    if let Some(entry) = inside.index_zip
        && let Some(nested) = archive.nested(source, entry)?
    {
        nested.walk(source, |name, _| inside.index(&name.to_ascii_lowercase()))?;
    }
    if inside.slides || inside.apxl {
        return Ok(Content::of("application/x-iwork-keynote-sffkey"));
    }
    if inside.iwa {
        return Ok(Content::either("application/x-iwork-pages-sffpages", "application/x-iwork-numbers-sffnumbers"));
    }
    if let Some(entry) = inside.index_xml
        && let Some(content) = iwork(&archive.read(source, entry)?)
    {
        return Ok(content);
    }
    Ok(Content::of("application/zip"))
}

/// What the `mimetype` entry says (EPUB OCF section 4.2.2, OpenDocument part 2 section 3.3).
fn declared(mimetype: &[u8]) -> Option<Content> {
    let mimetype = mimetype.trim_ascii();
    let starts = |prefix: &[u8]| mimetype.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if starts(b"application/epub+zip") {
        Some(Content::of("application/epub+zip"))
    } else if starts(b"application/vnd.oasis.opendocument") || starts(b"application/vnd.sun.xml") {
        Some(Content::Refused("an OpenDocument file"))
    } else {
        None
    }
}

/// What the main part is by `[Content_Types].xml` (ECMA-376 part 2 section 7.2.3). Embedded documents are listed under
/// types without `main+xml`, so they do not count.
fn office(types: &[u8], macros: bool) -> Option<Content> {
    const DOCUMENT: &str = "application/vnd.openxmlformats-officedocument.";
    // In UTF-16 every other byte of ASCII is 0.
    let types: Vec<u8> = types.iter().filter(|&&byte| byte != 0).map(u8::to_ascii_lowercase).collect();
    let has = |part: &str| memmem::find(&types, part.as_bytes()).is_some();
    let macros = macros || has("macroenabled.main+xml") || has("macroenabledtemplate.main+xml");
    let kinds = [
        ("wordprocessingml.document.main+xml", DOCUMENT.to_owned() + "wordprocessingml.document"),
        ("spreadsheetml.sheet.main+xml", DOCUMENT.to_owned() + "spreadsheetml.sheet"),
        ("presentationml.presentation.main+xml", DOCUMENT.to_owned() + "presentationml.presentation"),
    ];
    if has("vnd.ms-excel.sheet.binary") {
        return Some(Content::Refused("a binary Excel workbook"));
    }
    if macros {
        return Some(Content::Refused("an Office document with macros"));
    }
    if let Some((_, name)) = kinds.iter().find(|(part, _)| has(&(DOCUMENT.to_owned() + part))) {
        return Some(Content::of(name));
    }
    if has("template.main+xml") {
        Some(Content::Refused("an Office template"))
    } else if has("slideshow.main+xml") {
        Some(Content::Refused("a PowerPoint slide show"))
    } else if has("ms-visio.") {
        Some(Content::Refused("a Visio drawing"))
    } else if has("ms-package.xps") || has("openxps") {
        Some(Content::Refused("an XPS document"))
    } else {
        None
    }
}

/// Which iWork '09 document starts like this: the namespace of its root element tells.
fn iwork(index: &[u8]) -> Option<Content> {
    let start = &index[..index.len().min(4096)];
    let has = |part: &str| memmem::find(start, part.as_bytes()).is_some();
    if has("<sl:document") && has("http://developer.apple.com/namespaces/sl\"") {
        Some(Content::of("application/x-iwork-pages-sffpages"))
    } else if has("<ls:document") && has("http://developer.apple.com/namespaces/ls\"") {
        Some(Content::of("application/x-iwork-numbers-sffnumbers"))
    } else {
        None
    }
}
