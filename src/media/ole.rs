//! OLE compound files ([MS-CFB]): which stream stands in the root. Reads a bounded part of the directory and nothing else;
//! the `cfb` crate would load the whole allocation table.

use super::sniff::Content;
use super::source::Source;
use std::io::{self, Read, Seek};

/// Directory entries that are looked at. Office writes a few dozen, and the root's own among the first.
const ENTRIES: usize = 4096;

/// A directory entry (section 2.6.1), as much as tells where in the tree it is.
struct Item {
    name: String,
    left: u32,
    right: u32,
    child: u32,
}

/// The sectors of a file (sections 2.2 to 2.5).
struct Sectors {
    shift: u32,
    /// The first sector with further places of the allocation table.
    table: u32,
}

/// What a compound file is.
pub(super) fn identify<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Content> {
    let items = directory(source)?;
    if items.is_empty() {
        return Ok(Content::Damaged("an Office document that is cut short"));
    }
    let root = in_root(&items);
    // A tree that cannot be followed still leaves the list.
    let known = |names: &mut dyn Iterator<Item = &str>| names.filter_map(kind).min_by_key(|(rank, _)| *rank);
    let found = known(&mut root.iter().copied())
        .or_else(|| if root.is_empty() { known(&mut items.iter().map(|item| item.name.as_str())) } else { None });
    Ok(found.map_or(Content::Refused("an OLE file of another kind"), |(_, content)| content))
}

/// What a name in the root makes the file; of several the lowest rank counts.
fn kind(name: &str) -> Option<(u8, Content)> {
    Some(match name {
        "EncryptedPackage" | "\u{9}DRMContent" => (0, Content::Refused("an encrypted Office document")),
        "WordDocument" => (1, Content::of("application/msword")),
        "PowerPoint Document" => (1, Content::of("application/vnd.ms-powerpoint")),
        "Workbook" | "Book" => (1, Content::of("application/vnd.ms-excel")),
        "__properties_version1.0" | "__nameid_version1.0" => (2, Content::Refused("an Outlook message")),
        "VisioDocument" => (2, Content::Refused("a Visio drawing")),
        "Quill" => (2, Content::Refused("a Publisher document")),
        // Tables of an installer have their names packed into characters of this range.
        name if name.starts_with('\u{4840}') => (2, Content::Refused("a Windows installer")),
        _ => return None,
    })
}

/// The names directly in the root: embedded documents have streams of the same names further down.
fn in_root(items: &[Item]) -> Vec<&str> {
    let mut names = Vec::new();
    let mut open: Vec<u32> = items.first().map(|root| root.child).into_iter().collect();
    let mut seen = vec![false; items.len()];
    while let Some(id) = open.pop() {
        let Some((item, seen)) = usize::try_from(id).ok().and_then(|id| Some((items.get(id)?, seen.get_mut(id)?)))
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

fn directory<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Vec<Item>> {
    const SIZE: u64 = 128;
    let mut items = Vec::new();
    let Some(shift) = source.le16(0x1e)?.filter(|shift| matches!(shift, 9 | 12)) else { return Ok(items) };
    let Some((mut sector, table)) = source.le32(0x30)?.zip(source.le32(0x44)?) else { return Ok(items) };
    let sectors = Sectors { shift: shift.into(), table };
    while items.len() < ENTRIES {
        let start = sectors.offset(sector);
        for index in 0..(1 << shift) / SIZE {
            let Some(entry) = source.array::<128>(start + index * SIZE)? else { return Ok(items) };
            let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
            let length = usize::from(u16::from_le_bytes([entry[0x40], entry[0x41]])).saturating_sub(2).min(62);
            let (units, _) = entry[..length].as_chunks::<2>();
            let name =
                String::from_utf16_lossy(&units.iter().map(|&unit| u16::from_le_bytes(unit)).collect::<Vec<_>>());
            items.push(Item { name, left: word(0x44), right: word(0x48), child: word(0x4c) });
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

    /// The sector after `sector`, by the allocation table.
    fn next<R: Read + Seek>(&self, source: &mut Source<R>, sector: u32) -> io::Result<Option<u32>> {
        // Sectors outside the file would lead a long way through its chains.
        if self.offset(sector) >= source.len() {
            return Ok(None);
        }
        let each = 1 << (self.shift - 2);
        let Some(table) = self.table_sector(source, sector / each)? else { return Ok(None) };
        source.le32(self.offset(table) + u64::from(sector % each) * 4)
    }

    /// Where a part of the allocation table is: the header has room for the first 109 places, and the rest is in a chain
    /// of sectors whose last word leads on.
    fn table_sector<R: Read + Seek>(&self, source: &mut Source<R>, index: u32) -> io::Result<Option<u32>> {
        const IN_HEADER: u32 = 109;
        let Some(mut index) = index.checked_sub(IN_HEADER) else {
            return source.le32(0x4c + u64::from(index) * 4);
        };
        let each = (1 << (self.shift - 2)) - 1;
        let mut at = self.table;
        while index >= each {
            match source.le32(self.offset(at) + u64::from(each) * 4)? {
                Some(next) => at = next,
                None => return Ok(None),
            }
            index -= each;
        }
        source.le32(self.offset(at) + u64::from(index) * 4)
    }
}
