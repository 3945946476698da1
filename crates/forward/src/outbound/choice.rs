//! The power of two choices: of two random candidates, the one with fewer requests in flight.
//!
//! It spreads requests nearly as well as the least of all would. Cores that choose at the same moment
//! do not all choose the same one.

/// Chooses one of `candidates`, each with its requests in flight; `None` if there are none. `random(n)`
/// is below `n`.
pub(super) fn least_of_two<T>(
    mut candidates: impl Iterator<Item = (T, usize)> + Clone,
    mut random: impl FnMut(usize) -> usize,
) -> Option<T> {
    let count = candidates.clone().count();
    if count < 2 {
        return candidates.next().map(|(only, _)| only);
    }
    let one = random(count);
    // Any other than the first one.
    let other = (one + 1 + random(count - 1)) % count;
    let (one, requests) = candidates.clone().nth(one)?;
    let (other, other_requests) = candidates.nth(other)?;
    Some(if other_requests < requests {
        other
    } else {
        one
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chooses among candidates with these requests in flight, where chance gives `draws`.
    fn chosen(requests: &[usize], draws: &[usize]) -> Option<usize> {
        let mut draws = draws.iter();
        least_of_two(requests.iter().copied().enumerate(), |below| {
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
