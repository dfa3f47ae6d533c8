//! Divides the budget for moves between modules, so that one whose moves take long does not keep
//! all others from moving.

/// What a module takes up of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Moves that it has under way.
    pub under_way: usize,
    /// Further ones that it would begin.
    pub wanted: usize,
}

/// How many moves each may begin, so that `moves_max` are under way at most: those go first that
/// have the fewest, and of equals the one that stands first.
#[must_use]
pub fn divide(moves_max: usize, claims: &[Claim]) -> Vec<usize> {
    let under_way: usize = claims.iter().map(|claim| claim.under_way).sum();
    let mut given = vec![0; claims.len()];
    for _ in under_way..moves_max {
        let wants = |module: &usize| given[*module] < claims[*module].wanted;
        let least = |module: &usize| claims[*module].under_way + given[*module];
        let Some(next) = (0..claims.len()).filter(wants).min_by_key(least) else {
            break;
        };
        given[next] += 1;
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_goes_first_to_those_who_have_least() {
        for (moves_max, claims, given) in [
            (64, vec![(0, 100)], vec![64]),
            (64, vec![(0, 5), (0, 7)], vec![5, 7]),
            (64, vec![(0, 100), (0, 100)], vec![32, 32]),
            (64, vec![(0, 100), (0, 4), (0, 100)], vec![30, 4, 30]),
            (64, vec![(32, 100), (0, 100)], vec![0, 32]),
            (64, vec![(60, 100), (0, 100)], vec![0, 4]),
            (64, vec![(64, 100), (0, 100)], vec![0, 0]),
            (10, vec![(70, 1), (0, 1)], vec![0, 0]),
            (3, vec![(0, 9), (0, 9)], vec![2, 1]),
            (0, vec![(0, 9)], vec![0]),
            (9, vec![], vec![]),
        ] {
            let claims: Vec<Claim> = claims
                .into_iter()
                .map(|(under_way, wanted)| Claim { under_way, wanted })
                .collect();
            assert_eq!(divide(moves_max, &claims), given, "{moves_max}: {claims:?}");
        }
    }
}
