//! Answers kept in memory: bounded in bytes and age, and computed once however many ask for the same at once.

use std::sync::Arc;

use moka::future::Cache;

use crate::config::CacheConfig;
use crate::error::Result;
use crate::pipeline::Answer;

/// The sha256 of everything an answer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey(pub [u8; 32]);

/// What an entry takes beside its answer: key, list links and the answer's own bookkeeping.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// Predictions by the hash of what was asked. Errors are not kept.
pub struct PredictionCache {
    answers: Cache<CacheKey, Arc<Answer>>,
    is_on: bool,
}

impl PredictionCache {
    pub fn new(config: &CacheConfig) -> PredictionCache {
        let answers = Cache::builder()
            .max_capacity(config.cache_bytes.as_u64())
            .weigher(|_, answer: &Arc<Answer>| {
                u32::try_from(answer.byte_size() + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
            })
            .time_to_live(config.cache_ttl)
            .build();
        PredictionCache { answers, is_on: config.cache_bytes.as_u64() > 0 }
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// The answer, and whether it was in memory or being computed for another request.
    ///
    /// # Errors
    /// `compute`'s, for every request that waited for it.
    pub async fn get_or_compute(
        &self,
        key: CacheKey,
        compute: impl Future<Output = Result<Answer>>,
    ) -> Result<(Arc<Answer>, bool)> {
        let compute = async { compute.await.map(Arc::new) };
        // Moka's future is large, and would be moved about with those of requests that go round the cache.
        match Box::pin(self.answers.entry(key).or_try_insert_with(compute)).await {
            Ok(entry) => {
                let cached = !entry.is_fresh();
                Ok((entry.into_value(), cached))
            }
            Err(error) => Err(Arc::unwrap_or_clone(error)),
        }
    }
}
