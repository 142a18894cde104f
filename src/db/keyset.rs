//! Reads whole tables page by page, with keyset pagination.

use futures_util::stream::{self, Stream};

use super::Error;

/// Streams the pages of a query in key order. `fetch` returns the page after a key; `key` returns
/// the key of an item. An item inserted or deleted meanwhile does not cause other items to be
/// repeated or skipped.
pub fn pages<T, K, F>(
    key: impl Fn(&T) -> K,
    fetch: impl Fn(Option<K>) -> F,
) -> impl Stream<Item = Result<Vec<T>, Error>>
where
    F: Future<Output = Result<Vec<T>, Error>>,
{
    stream::try_unfold((None, key, fetch), |(after, key, fetch)| async move {
        let page = fetch(after).await?;
        let Some(last) = page.last().map(&key) else {
            return Ok(None);
        };
        Ok(Some((page, (Some(last), key, fetch))))
    })
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn pages_continue_after_the_last_key_until_one_is_empty() {
        let fetch = async |after: Option<u32>| {
            let first = after.map_or(0, |last| last + 1);
            Ok((first..5).take(2).collect())
        };
        let pages: Vec<Vec<u32>> = pages(|item| *item, fetch)
            .try_collect()
            .await
            .expect("pages");
        assert_eq!(pages, [vec![0, 1], vec![2, 3], vec![4]]);
    }
}
