//! Identifies Office Open XML documents (ECMA-376) by the content type of their main part.

use super::sniff::Detected;
use memchr::memmem;

/// Identifies an Office document by its main part (ECMA-376 part 2 sections 6.5 and 7.2.3). The
/// package relationships give the name of that part, and `[Content_Types].xml` gives its type.
/// Embedded documents and templates are listed there too, but do not count.
pub(super) fn identify(types: &[u8], relationships: &[u8], macros: bool) -> Option<Detected> {
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
    // The part's name may be spelled differently, or its type may be declared for its extension
    // only. Then the first type that belongs to a main part is used.
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

/// Maps the content type of a main part, in lower case, to the detected document type. Returns
/// `None` for content types of other parts.
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

/// Reduces XML to lower case and one byte per character, so that UTF-8 and UTF-16 can be searched
/// alike. In UTF-16, every other byte of ASCII is 0.
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
    /// Returns an attribute's value as written: content types have no characters that need
    /// escaping.
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

/// Iterates over the start tags in XML, and skips those in comments and character data.
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

#[cfg(test)]
mod tests {
    use crate::media::Detected;
    use crate::media::zip_container::tests::{archive, found};
    use zip::CompressionMethod;

    const WORD: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.";
    const SLIDES: &str = "application/vnd.openxmlformats-officedocument.presentationml.";
    const ZIP: &str = "application/zip";
    const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
    const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";

    fn part(name: &str, kind: &str) -> String {
        format!("<Override ContentType = \"{kind}\" PartName='{name}' />")
    }

    fn word() -> String {
        part("/word/document.xml", &format!("{WORD}document.main+xml"))
    }

    fn slides() -> String {
        part(
            "/ppt/presentation.xml",
            &format!("{SLIDES}presentation.main+xml"),
        )
    }

    fn template() -> String {
        part("/word/document.xml", &format!("{WORD}template.main+xml"))
    }

    /// Builds the relationships of a package that has a main part.
    fn relation(target: &str, mode: &str) -> String {
        format!(
            "<?xml version='1.0'?><r:Relationships><!-- > --><r:Relationship Id='a' {mode} \
             Type='http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument' \
             Target='{target}'/></r:Relationships>"
        )
    }

    /// Asserts that a package with these content types and relationships is identified as expected.
    fn assert_found(types: &str, relations: &str, expected: Detected) {
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

    #[test]
    fn document_is_identified_by_its_main_part() {
        let (docx, pptx) = (Detected::of(DOCX), Detected::of(PPTX));
        let (word, slides) = (word(), slides());
        let embedded = "<Default Extension='xlsb' \
            ContentType='application/vnd.ms-excel.sheet.binary.macroEnabled.12'/>\
            <Default Extension='vsdx' ContentType='application/vnd.ms-visio.drawing'/>";
        let both = format!("{word}{slides}");
        let other = part("/word/other.xml", "application/xml");
        for (types, relations, expected) in [
            (embedded.to_owned() + &slides, String::new(), pptx),
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
            (both.clone(), relation("./ppt/Presentation.xml", ""), pptx),
            (
                both.clone(),
                relation("ppt/presentation.xml", "TargetMode='External'"),
                docx,
            ),
            (both, relation("nowhere.bin", ""), docx),
            (
                format!("{}{slides}", template()),
                relation("word/document.xml", ""),
                Detected::Unsupported("an Office template"),
            ),
            (
                format!("{other}{word}"),
                relation("word/other.xml", ""),
                Detected::of(ZIP),
            ),
            (
                part(
                    "/word/document.xml",
                    "application/vnd.ms-word.document.macroEnabled.main+xml",
                ),
                relation("word/document.xml", ""),
                Detected::Unsupported("an Office document with macros"),
            ),
        ] {
            assert_found(&types, &relations, expected);
        }
    }

    #[test]
    fn type_of_extension_counts_without_type_of_part() {
        let types = format!("<Default Extension='xml' ContentType='{WORD}document.main+xml'/>");
        for relations in [relation("any.xml", ""), String::new()] {
            assert_found(&types, &relations, Detected::of(DOCX));
        }
    }

    #[test]
    fn markup_that_is_not_a_start_tag_is_ignored() {
        let (word, template) = (word(), template());
        let refused = Detected::Unsupported("an Office template");
        for (types, expected) in [
            (format!("<!-- {word} -->{template}"), refused),
            (format!("<![CDATA[ {word} ]]>{template}"), refused),
            (format!("<?a {word} ?>{template}"), refused),
            (
                format!("<a b=\"{}\"/>{template}", word.replace('"', "'")),
                refused,
            ),
            (format!("{template}<!-- {word}"), refused),
            (format!("<!-- {word} -->"), Detected::of(ZIP)),
            (word.replace("ContentType", "Type"), Detected::of(ZIP)),
        ] {
            assert_found(&types, "", expected);
        }
    }
}
