//! The leases that one process grants, in whichever terms it leads.
//!
//! Several threads come here. Each has read before that the process leads a term, and may have stood
//! still since for as long as it likes: by now the process may lead a later term.
//!
//! Invariant: terms only grow. What is done in an older term finds nothing, for the later term's
//! [`Grantor`] knows who was condemned, and a fresh one would grant to them again.

use super::{Grantor, Now};

/// The grants of the newest term that a process has led, and what its owner notes beside them.
#[derive(Debug)]
pub struct Grants<N = ()>(Option<TermGrants<N>>);

/// The grants of one term.
#[derive(Debug)]
pub struct TermGrants<N = ()> {
    term: u64,
    /// The leases.
    pub grantor: Grantor,
    /// What is noted in this term and forgotten with it.
    pub notes: N,
}

impl<N> Default for Grants<N> {
    fn default() -> Self {
        Self(None)
    }
}

impl<N: Default> Grants<N> {
    /// The grants of a term that the process has been seen to lead, begun when they are first asked
    /// for; none when it has led a later term since. `elected` and `first` are [`Grantor::new`]'s.
    pub fn of_term(&mut self, term: u64, elected: Now, first: u64) -> Option<&mut TermGrants<N>> {
        let Self(grants) = self;
        let begun = grants.as_ref().map(|grants| grants.term);
        if begun.is_some_and(|begun| begun > term) {
            return None;
        }
        if begun != Some(term) {
            *grants = Some(TermGrants {
                term,
                grantor: Grantor::new(elected, first),
                notes: N::default(),
            });
        }
        grants.as_mut()
    }
}
