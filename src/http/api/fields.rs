//! Deserializes JSON fields that need more than serde's defaults.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A field that exists in the API reference but is ignored by this server. Use it with [`ignored`].
pub(super) type Ignored<T> = PhantomData<T>;

/// Checks that a field is null or a `T`, and discards its value.
pub(super) fn ignored<'de, D, T>(deserializer: D) -> Result<Ignored<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(|_| PhantomData)
}

/// Deserializes a list, keeping at most `MAX + 1` entries. The extra entry shows that the list is
/// too long, without holding every entry that fits into a body in memory.
pub(super) fn bounded_list<'de, D, T, const MAX: usize>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct BoundedList<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for BoundedList<T, MAX> {
        type Value = Option<Vec<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while items.len() <= MAX {
                match list.next_element()? {
                    Some(item) => items.push(item),
                    None => return Ok(Some(items)),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Some(items))
        }
    }

    deserializer.deserialize_any(BoundedList::<T, MAX>(PhantomData))
}

/// Deserializes a whole number of any size. Numbers beyond 64 bits are valid JSON, so they are
/// clamped here, and the caller rejects them as too large.
pub(super) fn any_integer<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<i128>, D::Error> {
    use serde::de::Error;
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else {
        return Ok(None);
    };
    if let Some(integer) = number.as_i128() {
        return Ok(Some(integer));
    }
    match number.as_f64() {
        // serde_json reads integers beyond 64 bits as floats.
        Some(float) if float >= 1e18 => Ok(Some(i128::MAX)),
        Some(float) if float <= -1e18 => Ok(Some(i128::MIN)),
        _ => Err(D::Error::custom(format!(
            "invalid number {number}, expected a whole number"
        ))),
    }
}
