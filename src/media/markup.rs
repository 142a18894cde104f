//! Classifies markup (HTML, SVG or other XML) by its root element. Parses no further.

use super::sniff::TextKind;

/// Names of the HTML elements that can start a page, or a text that contains HTML.
static ELEMENTS: &str = "a abbr address article aside audio b big blockquote body br button canvas caption center \
    cite code dd del details dfn div dl dt em fieldset figure font footer form h1 h2 h3 h4 h5 h6 head header hgroup \
    hr i iframe img input ins kbd label legend li link main mark meta nav noscript object ol option p picture pre q \
    s samp script section select small span strike strong style sub summary sup table tbody td template textarea \
    tfoot th thead time title tr tt u ul var video";

/// Classifies text that starts with `<`. `closed` is true if the last non-blank character is `>`.
pub(super) fn kind(text: &str, closed: bool) -> TextKind {
    let declared =
        text.starts_with("<?xml") && text[5..].starts_with(|next: char| next.is_ascii_whitespace());
    let mut rest = text;
    let mut commented = false;
    loop {
        rest = rest.trim_start();
        let skipped = if let Some(comment) = rest.strip_prefix("<!--") {
            commented = true;
            comment.split_once("-->").map(|(_, rest)| rest)
        } else if starts_with(rest, "<!DOCTYPE") {
            let name = rest[9..].trim_start();
            if word(name).eq_ignore_ascii_case("html") {
                return TextKind::Html;
            }
            doctype(rest)
        } else if rest
            .strip_prefix("<?")
            .is_some_and(|target| !matches!(word(target), "" | "php"))
        {
            // Skips the XML declaration, a style sheet, or another processing instruction, but not
            // PHP code.
            rest.split_once("?>").map(|(_, rest)| rest)
        } else {
            break;
        };
        match skipped {
            Some(skipped) => rest = skipped,
            // The construct extends past the part of the file that was read.
            None if declared || commented => return TextKind::Xml,
            None => return TextKind::Plain,
        }
    }
    let name = rest.strip_prefix('<').map(word).unwrap_or_default();
    let local = name.rsplit_once(':').map_or(name, |(_, local)| local);
    let after = rest
        .get(1 + name.len()..)
        .and_then(|after| after.chars().next());
    let element = !name.is_empty()
        && after.is_some_and(|next| next.is_whitespace() || matches!(next, '>' | '/'));
    if element && local == "svg" {
        TextKind::Svg
    } else if element && local.eq_ignore_ascii_case("html") {
        TextKind::Html
    } else if declared {
        TextKind::Xml
    } else if element && html(name) {
        TextKind::Fragment
    } else if element && closed {
        TextKind::Xml
    } else if commented {
        TextKind::Fragment
    } else {
        within(text)
    }
}

/// Classifies text that is not markup as a whole, by whether an HTML element occurs near its start.
pub(super) fn within(text: &str) -> TextKind {
    const SEARCH_WINDOW: usize = 64 * 1024;
    let text = &text[..text.floor_char_boundary(SEARCH_WINDOW)];
    let tag = |(at, _)| {
        let rest = &text[at + 1..];
        let name = word(rest);
        html(name)
            && rest[name.len()..]
                .starts_with(|next: char| next.is_whitespace() || matches!(next, '>' | '/'))
    };
    if text.match_indices('<').any(tag) {
        TextKind::Mixed
    } else {
        TextKind::Plain
    }
}

fn html(name: &str) -> bool {
    ELEMENTS
        .split(' ')
        .any(|known| known.eq_ignore_ascii_case(name))
}

/// Skips the document type declaration at the start of `text`, and returns the text after it. The
/// declaration may have an internal subset in brackets, with declarations, comments and processing
/// instructions (XML 1.0 section 2.8).
fn doctype(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('<')?;
    let mut subset = false;
    loop {
        let at = rest.find(['<', '>', '[', ']', '"', '\''])?;
        let found = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        let end = match found {
            b'"' => "\"",
            b'\'' => "'",
            b'<' if rest.starts_with("!--") => "-->",
            b'<' if rest.starts_with('?') => "?>",
            b'>' if !subset => return Some(rest),
            b'[' | b']' => {
                subset = found == b'[';
                continue;
            }
            _ => continue,
        };
        (_, rest) = rest.split_once(end)?;
    }
}

/// Returns the XML name at the start of `text`, or an empty string if there is none.
fn word(text: &str) -> &str {
    let end =
        text.find(|next: char| !(next.is_alphanumeric() || matches!(next, ':' | '_' | '-' | '.')));
    let name = &text[..end.unwrap_or(text.len())];
    if name.starts_with(|first: char| first.is_alphabetic() || first == '_') {
        name
    } else {
        ""
    }
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.as_bytes()
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_classified_by_root_element() {
        let illustrator = "<?xml version=\"1.0\"?><!DOCTYPE svg PUBLIC \"-//W3C//DTD SVG 1.1//EN\" \"a.dtd\" [\n\
            <!ENTITY ns_svg \"http://www.w3.org/2000/svg\">\n]>\n<svg xmlns=\"&ns_svg;\"/>";
        for (text, expected) in [
            ("<svg/>", TextKind::Svg),
            ("<svg:svg xmlns:svg=''>", TextKind::Svg),
            ("<!-- made by hand --> \n <svg\n>", TextKind::Svg),
            (illustrator, TextKind::Svg),
            (
                "<!DOCTYPE svg [<!ENTITY a ']>'><!ENTITY b \"]><p>\">]><svg/>",
                TextKind::Svg,
            ),
            (
                "<!DOCTYPE svg [<!-- it's ]> --><?a ]>'?> %b; ] ><svg/>",
                TextKind::Svg,
            ),
            ("<!DOCTYPE svg SYSTEM 'a[>' >\n<svg/>", TextKind::Svg),
            (
                "<!DOCTYPE note [<!ENTITY a ']><svg>'>]><note></note>",
                TextKind::Xml,
            ),
            ("<!DOCTYPE note [<!ENTITY a ']><svg>", TextKind::Plain),
            ("<svgs></svgs>", TextKind::Xml),
            ("<HTML>", TextKind::Html),
            ("<!doctype  HTML>", TextKind::Html),
            (
                "<!-- saved from url=(0014)about:internet --><!DOCTYPE html><svg/>",
                TextKind::Html,
            ),
            ("<?xml version=\"1.0\"?><html xmlns=''>", TextKind::Html),
            ("<p>a</p>", TextKind::Fragment),
            ("<script>alert(1)</script>", TextKind::Fragment),
            ("<!-- a --> words", TextKind::Fragment),
            ("<br/>words", TextKind::Fragment),
            ("<?xml version=\"1.0\"?><!-- <svg> --><p/>", TextKind::Xml),
            ("<?xml version=\"1.0\"?>", TextKind::Xml),
            ("<?xml version=\"1.0\"?><!-- cut", TextKind::Xml),
            ("<!-- cut", TextKind::Xml),
            ("<feed xmlns=''></feed>", TextKind::Xml),
            (
                "<!DOCTYPE note [<!ELEMENT note ANY>]><note></note>",
                TextKind::Xml,
            ),
            ("<someone@example.org> wrote", TextKind::Plain),
            (
                "<?mso-application progid=\"Word.Document\"?><w:document></w:document>",
                TextKind::Xml,
            ),
            ("<feed and words", TextKind::Plain),
            ("<?php echo '<html>';", TextKind::Plain),
            ("<", TextKind::Plain),
            ("<>", TextKind::Plain),
            ("< p>", TextKind::Plain),
            ("<!DOCTYPE", TextKind::Plain),
            ("<\u{e9}l\u{e9}ment/>", TextKind::Xml),
        ] {
            assert_eq!(kind(text, text.ends_with('>')), expected, "{text}");
        }
    }
}
