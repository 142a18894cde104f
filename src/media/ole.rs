//! Identifies OLE compound files ([MS-CFB]) by the streams in their root storage.
//!
//! Written by hand to bound memory: reads at most 4,096 directory entries of 128 bytes, and only
//! those words of the allocation table that form the directory's sector chain. The `cfb` crate
//! loads the directory and the table in full, and a crafted file of 100 MiB can consist of 800,000
//! directory entries.

use super::bounded_reader::BoundedReader;
use super::sniff::Detected;
use std::io::{self, Read, Seek};

/// Maximum number of directory entries that are read. Office writes a few dozen entries, with those
/// of the root storage among the first.
const MAX_ENTRIES: usize = 4096;

/// A directory entry (section 2.6.1): its name, and its links to other entries in the tree.
struct Item {
    name: String,
    left: u32,
    right: u32,
    child: u32,
}

/// The sector layout of a compound file (sections 2.2 to 2.5).
struct Sectors {
    /// Base-2 logarithm of the sector size.
    shift: u32,
    /// First DIFAT sector, which lists the FAT sectors that do not fit in the header.
    table: u32,
}

/// Identifies the document type of a compound file.
pub(super) fn identify<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Detected> {
    let items = directory(source)?;
    if items.is_empty() {
        return Ok(Detected::Damaged("an Office document that is cut short"));
    }
    let root = in_root(&items);
    // If the tree of entries is unusable, the names of all entries are used instead.
    let known = |names: &mut dyn Iterator<Item = &str>| {
        names.filter_map(kind).min_by_key(|(rank, _)| *rank)
    };
    let found = known(&mut root.iter().copied()).or_else(|| {
        if root.is_empty() {
            known(&mut items.iter().map(|item| item.name.as_str()))
        } else {
            None
        }
    });
    Ok(found.map_or(
        Detected::Unsupported("an OLE file of another kind"),
        |(_, content)| content,
    ))
}

/// Maps the name of an entry in the root storage to the content that it implies, with a rank. If
/// several names are known, the lowest rank wins.
fn kind(name: &str) -> Option<(u8, Detected)> {
    Some(match name {
        "EncryptedPackage" | "\u{9}DRMContent" => {
            (0, Detected::Unsupported("an encrypted Office document"))
        }
        "WordDocument" => (1, Detected::of("application/msword")),
        "PowerPoint Document" => (1, Detected::of("application/vnd.ms-powerpoint")),
        "Workbook" | "Book" => (1, Detected::of("application/vnd.ms-excel")),
        "__properties_version1.0" | "__nameid_version1.0" => {
            (2, Detected::Unsupported("an Outlook message"))
        }
        "VisioDocument" => (2, Detected::Unsupported("a Visio drawing")),
        "Quill" => (2, Detected::Unsupported("a Publisher document")),
        // Windows Installer encodes table names in characters from U+4840 on.
        name if name.starts_with('\u{4840}') => (2, Detected::Unsupported("a Windows installer")),
        _ => return None,
    })
}

/// Returns the names of the entries directly in the root storage. Others are left out, because
/// embedded documents have streams of the same names in storages of their own.
fn in_root(items: &[Item]) -> Vec<&str> {
    let mut names = Vec::new();
    let mut open: Vec<u32> = items.first().map(|root| root.child).into_iter().collect();
    let mut seen = vec![false; items.len()];
    while let Some(id) = open.pop() {
        let Some((item, seen)) = usize::try_from(id)
            .ok()
            .and_then(|id| Some((items.get(id)?, seen.get_mut(id)?)))
        else {
            continue;
        };
        if !std::mem::replace(seen, true) {
            names.push(item.name.as_str());
            open.extend([item.left, item.right]);
        }
    }
    names
}

fn directory<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Vec<Item>> {
    const ENTRY_SIZE: u64 = 128;
    let mut items = Vec::new();
    let Some(shift) = source.le16(0x1e)?.filter(|shift| matches!(shift, 9 | 12)) else {
        return Ok(items);
    };
    let Some((mut sector, table)) = source.le32(0x30)?.zip(source.le32(0x44)?) else {
        return Ok(items);
    };
    let sectors = Sectors {
        shift: shift.into(),
        table,
    };
    while items.len() < MAX_ENTRIES {
        let start = sectors.offset(sector);
        for index in 0..(1 << shift) / ENTRY_SIZE {
            let Some(entry) = source.array::<128>(start + index * ENTRY_SIZE)? else {
                return Ok(items);
            };
            let word = |at: usize| {
                u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
            };
            let length = usize::from(u16::from_le_bytes([entry[0x40], entry[0x41]]))
                .saturating_sub(2)
                .min(62);
            let (units, _) = entry[..length].as_chunks::<2>();
            let name = String::from_utf16_lossy(
                &units
                    .iter()
                    .map(|&unit| u16::from_le_bytes(unit))
                    .collect::<Vec<_>>(),
            );
            items.push(Item {
                name,
                left: word(0x44),
                right: word(0x48),
                child: word(0x4c),
            });
        }
        match sectors.next(source, sector)? {
            Some(next) => sector = next,
            None => break,
        }
    }
    Ok(items)
}

impl Sectors {
    fn offset(&self, sector: u32) -> u64 {
        (u64::from(sector) + 1) << self.shift
    }

    /// Looks up in the FAT which sector follows `sector` in its chain.
    fn next<R: Read + Seek>(
        &self,
        source: &mut BoundedReader<R>,
        sector: u32,
    ) -> io::Result<Option<u32>> {
        // A sector number outside the file is rejected, because it would cause a long walk through
        // the DIFAT chain.
        if self.offset(sector) >= source.len() {
            return Ok(None);
        }
        let per_sector = 1 << (self.shift - 2);
        let Some(table) = self.table_sector(source, sector / per_sector)? else {
            return Ok(None);
        };
        source.le32(self.offset(table) + u64::from(sector % per_sector) * 4)
    }

    /// Returns the FAT sector with this index. The header lists the first 109 FAT sectors. A chain
    /// of DIFAT sectors lists the others; the last word of each is the next DIFAT sector.
    fn table_sector<R: Read + Seek>(
        &self,
        source: &mut BoundedReader<R>,
        index: u32,
    ) -> io::Result<Option<u32>> {
        const IN_HEADER: u32 = 109;
        let Some(mut index) = index.checked_sub(IN_HEADER) else {
            return source.le32(0x4c + u64::from(index) * 4);
        };
        let per_sector = (1 << (self.shift - 2)) - 1;
        let mut at = self.table;
        while index >= per_sector {
            match source.le32(self.offset(at) + u64::from(per_sector) * 4)? {
                Some(next) => at = next,
                None => return Ok(None),
            }
            index -= per_sector;
        }
        source.le32(self.offset(at) + u64::from(index) * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const NONE: u32 = u32::MAX;

    /// Builds a directory entry; the links are left sibling, right sibling and child.
    fn entry(name: &str, links: [u32; 3]) -> Vec<u8> {
        let mut entry: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        entry.resize(64, 0);
        entry.extend(
            u16::try_from(2 * name.encode_utf16().count() + 2)
                .expect("short")
                .to_le_bytes(),
        );
        entry.extend([2, 1]);
        entry.extend(links.iter().flat_map(|link| link.to_le_bytes()));
        entry.resize(128, 0);
        entry
    }

    /// Builds a compound file from a header, the allocation table `table`, and consecutive
    /// directory sectors.
    fn file(table: &[u32], entries: &[Vec<u8>]) -> Vec<u8> {
        let mut file = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec();
        file.resize(0x1e, 0);
        file.extend(9_u16.to_le_bytes());
        file.resize(0x30, 0);
        file.extend(1_u32.to_le_bytes());
        file.resize(0x44, 0);
        file.extend(NONE.to_le_bytes());
        file.resize(0x4c, 0);
        file.extend(0_u32.to_le_bytes());
        file.resize(512, 0xff);
        file.extend(table.iter().flat_map(|next| next.to_le_bytes()));
        file.resize(1024, 0xff);
        file.extend(entries.concat());
        file
    }

    fn found(bytes: &[u8]) -> Detected {
        identify(&mut BoundedReader::new(Cursor::new(bytes)).expect("in-memory I/O"))
            .expect("in-memory I/O")
    }

    #[test]
    fn only_streams_in_the_root_determine_the_type() {
        for (name, expected) in [
            ("Workbook", Detected::of("application/vnd.ms-excel")),
            ("Book", Detected::of("application/vnd.ms-excel")),
            ("WordDocument", Detected::of("application/msword")),
            (
                "PowerPoint Document",
                Detected::of("application/vnd.ms-powerpoint"),
            ),
            (
                "EncryptedPackage",
                Detected::Unsupported("an encrypted Office document"),
            ),
            (
                "\u{4840}\u{3f3f}",
                Detected::Unsupported("a Windows installer"),
            ),
            (
                "Contents",
                Detected::Unsupported("an OLE file of another kind"),
            ),
        ] {
            let entries = [
                entry("Root Entry", [NONE, NONE, 2]),
                entry("WordDocument", [NONE, NONE, NONE]),
                entry("ObjectPool", [NONE, 3, 1]),
                entry(name, [NONE, NONE, NONE]),
            ];
            assert_eq!(found(&file(&[NONE, NONE], &entries)), expected, "{name}");
        }
    }

    #[test]
    fn cyclic_links_and_sector_chains_terminate() {
        let entries = [
            entry("Root Entry", [NONE, NONE, 1]),
            entry("A", [2, 1, NONE]),
            entry("B", [1, 3, NONE]),
            entry("Book", [2, 0, NONE]),
        ];
        for table in [[NONE, NONE], [NONE, 1], [NONE, 0], [0, 0]] {
            assert_eq!(
                found(&file(&table, &entries)),
                Detected::of("application/vnd.ms-excel"),
                "{table:?}"
            );
        }
    }

    #[test]
    fn directory_outside_file_is_damaged() {
        let whole = file(&[NONE, NONE], &[entry("Root Entry", [NONE, NONE, NONE])]);
        let mut lost = whole.clone();
        lost[0x30..0x34].copy_from_slice(&0x00ff_0000_u32.to_le_bytes());
        for bytes in [&lost[..], &whole[..1024], &whole[..8]] {
            assert_eq!(
                found(bytes),
                Detected::Damaged("an Office document that is cut short")
            );
        }
    }
}
