//! Tests the choice of a file's type.

use super::*;

fn binary(kind: &str) -> Detected {
    Detected::of(kind)
}

fn resolved(
    content: Detected,
    filename: &str,
    declared: &str,
    route: Ingest,
) -> Result<&'static str, Rejection> {
    let declared = (!declared.is_empty()).then(|| named(declared));
    resolve(content, &Claim { filename, declared }, route).map(|media_type| media_type.name)
}

#[test]
fn extension_within_family_is_ignored_on_upload_and_must_fit_by_url() {
    // Each case has the content, the filename, and whether that filename is accepted for a fetched
    // file.
    for (content, filename, by_url) in [
        ("image/jpeg", "a.jpg", true),
        ("image/jpeg", "a.JPEG", true),
        ("image/jpeg", "a", true),
        ("image/jpeg", "a.unheard", true),
        ("image/jpeg", ".jpg", true),
        ("image/jpeg", "a.png", false),
        ("image/webp", "a.gif", false),
        ("image/heic", "a.heif", true),
        ("image/heic", "a.jpg", false),
        ("video/mp4", "a.mov", true),
        ("video/quicktime", "a.mp4", true),
        ("video/3gpp", "a.m4v", true),
        ("video/mp4", "a.avi", false),
        ("video/mp4", "a.m4a", false),
        ("audio/x-m4a", "a.mp4", true),
        ("audio/x-m4a", "a.mov", false),
        ("audio/mpeg", "a.m4a", false),
        ("audio/midi", "a.mp4", false),
        ("application/epub+zip", "a.zip", true),
        ("application/vnd.apple.pkpass", "a.zip", true),
    ] {
        let content_name = content;
        let content = binary(content_name);
        assert_eq!(
            resolved(content, filename, "", Ingest::Upload),
            Ok(content_name),
            "{filename}"
        );
        match resolved(content, filename, "", Ingest::Url) {
            Ok(name) => assert!(by_url && name == content_name, "{filename}: {name}"),
            Err(Rejection::Mismatch(_)) => assert!(!by_url, "{filename}"),
            Err(other) => panic!("{filename}: {other}"),
        }
    }
}

#[test]
fn extension_of_another_family_is_refused() {
    for (content, filename) in [
        ("application/pdf", "a.jpg"),
        ("image/jpeg", "a.pdf"),
        ("image/jpeg", "a.mp4"),
        ("image/jpeg", "a.txt"),
        ("image/jpeg", "a.svg"),
        ("application/zip", "a.docx"),
        ("application/zip", "a.gz"),
        ("application/x-gzip", "a.zip"),
        ("application/msword", "a.docx"),
        ("application/msword", "a.xls"),
        ("application/vnd.ms-excel", "a.zip"),
        ("application/x-iwork-keynote-sffkey", "a.pages"),
    ] {
        let upload = resolved(binary(content), filename, "", Ingest::Upload);
        assert!(
            matches!(upload, Err(Rejection::Unsupported(_))),
            "{filename} {upload:?}"
        );
        let by_url = resolved(binary(content), filename, "", Ingest::Url);
        assert!(
            matches!(by_url, Err(Rejection::Mismatch(_))),
            "{filename} {by_url:?}"
        );
    }
}

#[test]
fn declared_type_counts_on_upload_only() {
    for (content, filename, declared, passes) in [
        ("image/jpeg", "a.jpg", "image/png", true),
        ("image/jpeg", "a", "image/png", true),
        ("image/jpeg", "a.jpg", "text/plain", false),
        ("image/jpeg", "a", "application/pdf", false),
        ("audio/mpeg", "a.mp3", "video/mp4", true),
        ("application/zip", "a.zip", "application/epub+zip", false),
        ("application/epub+zip", "a.epub", "application/zip", true),
    ] {
        let upload = resolved(binary(content), filename, declared, Ingest::Upload);
        assert_eq!(upload.is_ok(), passes, "{filename} {declared}");
        assert_eq!(
            resolved(binary(content), filename, declared, Ingest::Url),
            Ok(content),
            "{filename} {declared}"
        );
    }
}

#[test]
fn ambiguous_content_is_resolved_by_extension_then_declared_type() {
    let still = Detected::either("image/heic", "image/heif");
    let movie = Detected::either("video/mp4", "video/x-m4v");
    for (content, filename, declared, expected) in [
        (still, "a.heic", "image/heif", "image/heic"),
        (still, "a.heif", "image/heic", "image/heif"),
        (still, "a", "image/heif", "image/heif"),
        (still, "a", "", "image/heic"),
        (movie, "a.m4v", "", "video/x-m4v"),
        (movie, "a.mp4", "video/x-m4v", "video/mp4"),
        (movie, "a.mov", "", "video/mp4"),
    ] {
        for route in [Ingest::Upload, Ingest::Url] {
            assert_eq!(
                resolved(content, filename, declared, route),
                Ok(expected),
                "{filename} {declared}"
            );
        }
    }
}

#[test]
fn text_gets_type_of_its_extension_if_content_fits() {
    for (kind, filename, declared, expected) in [
        (TextKind::Plain, "a.txt", "", Some("text/plain")),
        (TextKind::Html, "a.txt", "", Some("text/plain")),
        (TextKind::Json, "a.csv", "", Some("text/csv")),
        (TextKind::Fragment, "a.md", "", Some("text/markdown")),
        (TextKind::Html, "a.html", "", Some("text/html")),
        (TextKind::Xml, "a.htm", "", Some("text/html")),
        (TextKind::Fragment, "a.html", "", Some("text/html")),
        (TextKind::Mixed, "a.html", "", Some("text/html")),
        (TextKind::Mixed, "a.xml", "", None),
        (TextKind::Mixed, "a", "", Some("text/plain")),
        (TextKind::Plain, "a.html", "", None),
        (TextKind::Svg, "a.xml", "", Some("text/xml")),
        (TextKind::Html, "a.xml", "", Some("text/xml")),
        (TextKind::Json, "a.xml", "", None),
        (TextKind::Svg, "a.svg", "", Some("image/svg+xml")),
        (TextKind::Html, "a.svg", "", None),
        (TextKind::Xml, "a.svg", "", None),
        (TextKind::Json, "a.json", "", Some("application/json")),
        (TextKind::Scalar, "a.json", "", Some("application/json")),
        (TextKind::Plain, "a.json", "", None),
        (TextKind::Vcard, "a.vcf", "", Some("text/vcard")),
        (TextKind::Calendar, "a.vcf", "", None),
        (TextKind::Calendar, "a.ics", "", Some("text/calendar")),
        (TextKind::Rtf, "a.rtf", "", Some("text/rtf")),
        (TextKind::Rtf, "a.doc", "", None),
        (TextKind::Plain, "a.rtf", "", None),
        (TextKind::Html, "a.jpg", "", None),
        (TextKind::Plain, "a.pdf", "", None),
        // Filenames without an extension.
        (TextKind::Plain, "a", "", Some("text/plain")),
        (TextKind::Plain, "a", "text/csv", Some("text/csv")),
        (TextKind::Plain, "a", "text/vcard", Some("text/plain")),
        (TextKind::Scalar, "a", "text/csv", Some("text/csv")),
        (TextKind::Scalar, "a", "", Some("text/plain")),
        (
            TextKind::Scalar,
            "a",
            "application/json",
            Some("application/json"),
        ),
        (TextKind::Html, "a", "", Some("text/html")),
        (TextKind::Html, "a", "text/plain", Some("text/html")),
        (TextKind::Svg, "a", "text/xml", Some("text/xml")),
        // Filenames with an extension that is not in the type table.
        (TextKind::Plain, "a.css", "", None),
        (TextKind::Plain, "a.log", "text/plain", Some("text/plain")),
        (TextKind::Html, "a.page", "text/html", Some("text/html")),
        (TextKind::Html, "a.page", "text/plain", Some("text/plain")),
        (TextKind::Plain, "a.page", "text/html", None),
    ] {
        for route in [Ingest::Upload, Ingest::Url] {
            let found = resolved(Detected::Text(kind), filename, declared, route).ok();
            assert_eq!(found, expected, "{kind:?} {filename} {declared}");
        }
    }
    // A declared type is binding for an upload, but only a hint for a fetched file.
    assert!(
        resolved(
            Detected::Text(TextKind::Plain),
            "a.txt",
            "image/png",
            Ingest::Upload
        )
        .is_err()
    );
    assert!(
        resolved(
            Detected::Text(TextKind::Plain),
            "a.txt",
            "image/png",
            Ingest::Url
        )
        .is_ok()
    );
}

#[test]
fn refusals_name_the_detected_content() {
    let jpeg = binary("image/jpeg");
    let html = Detected::Text(TextKind::Html);
    for (content, filename, route, sentence) in [
        (Detected::Empty, "a.jpg", Ingest::Upload, "a.jpg is empty"),
        (
            Detected::Unknown,
            "a.jpg",
            Ingest::Url,
            "a.jpg is no file of a supported type",
        ),
        (
            Detected::Unsupported("a Windows program"),
            "a.jpg",
            Ingest::Url,
            "a.jpg holds a Windows program, which is not supported",
        ),
        (
            Detected::Damaged("a JPEG image that is cut short"),
            "a.jpg",
            Ingest::Url,
            "a.jpg holds a JPEG image that is cut short",
        ),
        (
            jpeg,
            "a.EXE",
            Ingest::Url,
            "a.EXE has the extension .exe, which is not supported",
        ),
        (
            jpeg,
            "a.pdf",
            Ingest::Upload,
            "a.pdf holds a JPEG image, not a PDF document",
        ),
        (
            html,
            "a.pdf",
            Ingest::Upload,
            "a.pdf holds an HTML page, not a PDF document",
        ),
        (
            html,
            "a.pdf",
            Ingest::Url,
            "a.pdf is an HTML page (text/html); name it .html",
        ),
        (
            jpeg,
            "a.png",
            Ingest::Url,
            "a.png is a JPEG image (image/jpeg); name it .jpg, or upload it instead",
        ),
        (
            Detected::Text(TextKind::Plain),
            "a.css",
            Ingest::Url,
            "a.css holds plain text, and .css is no extension of a supported type",
        ),
    ] {
        let refusal = resolved(content, filename, "", route).expect_err(sentence);
        assert_eq!(refusal.to_string(), sentence);
    }
}

#[test]
fn extension_is_short_alphanumeric_and_follows_a_stem() {
    for (filename, expected) in [
        ("a.jpg", Some("jpg")),
        ("a.tar.gz", Some("gz")),
        ("a.jpg. .", Some("jpg")),
        ("jpg", None),
        (".jpg", None),
        ("a.", None),
        ("a.b c", None),
        ("a.elevenchars", None),
        ("a.j\u{fc}g", None),
        ("", None),
    ] {
        assert_eq!(extension(filename), expected, "{filename}");
    }
}
