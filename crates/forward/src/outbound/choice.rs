//! The power of two choices: of two random candidates, the one with fewer requests in flight.
//!
//! It spreads requests nearly as well as the least of all would. Cores that choose at the same moment
//! do not all choose the same one.

/// Chooses one of `count` candidates; `None` if none of them can be chosen. `load` returns the requests in
/// flight of a candidate, or `None` if it can't be chosen. `random(n)` is below `n`.
///
/// Usually two candidates are compared. All are compared if neither of the two can be chosen.
pub(super) fn least_of_two(
    count: usize,
    load: impl Fn(usize) -> Option<usize>,
    mut random: impl FnMut(usize) -> usize,
) -> Option<usize> {
    if count >= 2 {
        let one = random(count);
        // The second one differs from the first.
        let other = (one + 1 + random(count - 1)) % count;
        match (load(one), load(other)) {
            (Some(requests), Some(others)) if others < requests => return Some(other),
            (Some(_), _) => return Some(one),
            (None, Some(_)) => return Some(other),
            (None, None) => {}
        }
    }
    let loads = (0..count).filter_map(|index| Some((load(index)?, index)));
    loads.min().map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A candidate that can't be chosen.
    const FULL: usize = usize::MAX;

    /// Chooses among candidates with these requests in flight, where chance gives `draws`.
    fn chosen(requests: &[usize], draws: &[usize]) -> Option<usize> {
        let mut draws = draws.iter();
        let load = |index: usize| Some(requests[index]).filter(|requests| *requests != FULL);
        least_of_two(requests.len(), load, |below| {
            let drawn = *draws.next().expect("two draws at most");
            assert!(drawn < below);
            drawn
        })
    }

    #[test]
    fn of_two_at_random_the_one_with_fewer_requests_is_chosen() {
        for (requests, draws, expected) in [
            (&[] as &[usize], &[] as &[usize], None),
            (&[7], &[], Some(0)),
            (&[FULL], &[], None),
            (&[1, 0], &[0, 0], Some(1)),
            (&[1, 0], &[1, 0], Some(1)),
            (&[0, 1], &[1, 0], Some(0)),
            // The first one drawn of two equals is chosen, so that chance spreads the requests.
            (&[2, 2], &[0, 0], Some(0)),
            (&[2, 2], &[1, 0], Some(1)),
            // The least of all is not among the two.
            (&[5, 4, 0], &[0, 0], Some(1)),
            (&[5, 4, 0], &[0, 1], Some(2)),
            (&[5, 4, 0], &[2, 0], Some(2)),
            // One of the two can't be chosen.
            (&[FULL, 9, 0], &[0, 0], Some(1)),
            (&[9, FULL, 0], &[0, 0], Some(0)),
            // Neither can.
            (&[FULL, FULL, 3, 2], &[0, 0], Some(3)),
            (&[FULL, FULL], &[0, 0], None),
        ] {
            assert_eq!(chosen(requests, draws), expected, "{requests:?} {draws:?}");
        }
    }

    #[test]
    fn the_same_candidate_is_never_drawn_twice() {
        for count in 2..6 {
            for one in 0..count {
                for other in 0..count - 1 {
                    // The first drawn is the busier.
                    let requests: Vec<usize> = (0..count).map(|i| usize::from(i == one)).collect();
                    assert_ne!(chosen(&requests, &[one, other]), Some(one));
                }
            }
        }
    }
}
