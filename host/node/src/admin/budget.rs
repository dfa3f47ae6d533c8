//! Bounds the bytes of requests that are in memory at once, on the node and for one module.
//!
//! Invariant: what is held is given back when the last user of the bytes lets go of them, so that a call
//! that waits in a queue counts as long as it waits.

use std::{collections::HashMap, fmt, sync::Arc};

use bytes::Bytes;
use holdfast_model::ModuleName;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

/// The bytes that requests may take. Clones share them.
#[derive(Clone)]
pub struct ByteBudget(Arc<Shared>);

struct Shared {
    node_max: u64,
    module_max: u64,
    held: Mutex<Held>,
    gauge: Gauge,
}

#[derive(Default)]
struct Held {
    node: u64,
    modules: HashMap<ModuleName, u64>,
}

/// Bytes taken from a budget; dropping gives them back.
pub struct Reservation {
    budget: ByteBudget,
    module: Option<ModuleName>,
    bytes: u64,
}

/// There is no room for more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// Requests of all kinds fill the node's budget.
    #[error("requests take the {0} bytes that this node has for them")]
    Node(u64),
    /// Those for one module fill its share.
    #[error("requests for the module take the {0} bytes that this node has for one module")]
    Module(u64),
}

impl ByteBudget {
    /// A budget of this many bytes, half of which one module may take. The gauge shows what is taken.
    #[must_use]
    pub fn new(bytes_max: u64, gauge: Gauge) -> Self {
        Self(Arc::new(Shared {
            node_max: bytes_max,
            module_max: bytes_max / 2,
            held: Mutex::default(),
            gauge,
        }))
    }

    /// Takes nothing yet, for a request to this module or to none.
    #[must_use]
    pub fn reserve(&self, module: Option<&ModuleName>) -> Reservation {
        Reservation {
            budget: self.clone(),
            module: module.cloned(),
            bytes: 0,
        }
    }

    fn take(&self, module: Option<&ModuleName>, bytes: u64) -> Result<(), Exhausted> {
        let shared = &*self.0;
        let mut held = shared.held.lock();
        let node = held.node.saturating_add(bytes);
        if node > shared.node_max {
            return Err(Exhausted::Node(shared.node_max));
        }
        if let Some(module) = module {
            let of_module = held.modules.get(module).copied().unwrap_or(0);
            let of_module = of_module.saturating_add(bytes);
            if of_module > shared.module_max {
                return Err(Exhausted::Module(shared.module_max));
            }
            held.modules.insert(module.clone(), of_module);
        }
        held.node = node;
        shared.gauge.set(i64::try_from(node).unwrap_or(i64::MAX));
        Ok(())
    }

    fn give_back(&self, module: Option<&ModuleName>, bytes: u64) {
        let mut held = self.0.held.lock();
        held.node = held.node.saturating_sub(bytes);
        self.0
            .gauge
            .set(i64::try_from(held.node).unwrap_or(i64::MAX));
        let Some(module) = module else { return };
        if let Some(of_module) = held.modules.get_mut(module) {
            *of_module = of_module.saturating_sub(bytes);
            if *of_module == 0 {
                held.modules.remove(module);
            }
        }
    }
}

impl Reservation {
    /// Makes it this many bytes in all. What is [`ByteBudget::FREE`] or less takes nothing.
    ///
    /// # Errors
    /// When there is no room. It is as large as before then.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Exhausted> {
        if bytes <= ByteBudget::FREE || bytes <= self.bytes {
            return Ok(());
        }
        self.budget.take(self.module.as_ref(), bytes - self.bytes)?;
        self.bytes = bytes;
        Ok(())
    }

    /// Ties the reservation to these bytes: it ends with the last of them.
    #[must_use]
    pub fn hold(self, bytes: Bytes) -> Bytes {
        match self.bytes {
            0 => bytes,
            _ => Bytes::from_owner(Reserved {
                bytes,
                _reservation: self,
            }),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(self.module.as_ref(), self.bytes);
        }
    }
}

struct Reserved {
    bytes: Bytes,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Reserved {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl ByteBudget {
    /// What a request may take without being counted: a connection takes more than that itself.
    pub const FREE: u64 = 4 << 10;
}

impl fmt::Debug for ByteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteBudget")
            .field("node_max", &self.0.node_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(bytes_max: u64) -> (ByteBudget, Gauge) {
        let gauge = Gauge::default();
        (ByteBudget::new(bytes_max, gauge.clone()), gauge)
    }

    #[test]
    fn one_module_gets_half_and_all_together_no_more_than_the_whole() {
        let (budget, gauge) = budget(100_000);
        let names = ["a", "b", "c"].map(|name| name.parse::<ModuleName>().unwrap());
        let mut a = budget.reserve(Some(&names[0]));
        a.grow(50_000).unwrap();
        assert_eq!(a.grow(50_001), Err(Exhausted::Module(50_000)));
        let mut more = budget.reserve(Some(&names[0]));
        assert_eq!(more.grow(5_000), Err(Exhausted::Module(50_000)));
        let mut b = budget.reserve(Some(&names[1]));
        b.grow(40_000).unwrap();
        let mut c = budget.reserve(Some(&names[2]));
        assert_eq!(c.grow(10_001), Err(Exhausted::Node(100_000)));
        c.grow(10_000).unwrap();
        assert_eq!(gauge.get(), 100_000);
        drop(a);
        more.grow(50_000).unwrap();
        drop((more, b, c));
        assert_eq!(gauge.get(), 0);
        assert!(budget.0.held.lock().modules.is_empty());
    }

    #[test]
    fn bytes_count_until_the_last_of_them_is_dropped() {
        let (budget, gauge) = budget(100_000);
        let mut reservation = budget.reserve(None);
        reservation.grow(8_000).unwrap();
        let held = reservation.hold(Bytes::from(vec![7; 8_000]));
        let part = held.slice(10..20);
        drop(held);
        assert_eq!(gauge.get(), 8_000);
        drop(part);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn what_is_small_is_not_counted() {
        let (budget, gauge) = budget(0);
        let mut reservation = budget.reserve(None);
        reservation.grow(ByteBudget::FREE).unwrap();
        assert_eq!(gauge.get(), 0);
        assert!(reservation.grow(ByteBudget::FREE + 1).is_err());
    }
}
