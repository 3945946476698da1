//! The power of two choices: of two candidates at random the one with less to do. It spreads load
//! nearly as well as the least of all, and cores that choose at the same moment don't all choose the
//! same one.

/// Which of `candidates`, each with its load; `None` if there are none. `random(n)` is below `n`.
pub(super) fn least_of_two<T>(
    mut candidates: impl Iterator<Item = (T, usize)> + Clone,
    mut random: impl FnMut(usize) -> usize,
) -> Option<T> {
    let count = candidates.clone().count();
    if count < 2 {
        return candidates.next().map(|(only, _)| only);
    }
    let one = random(count);
    // Any other than the one.
    let other = (one + 1 + random(count - 1)) % count;
    let (one, load) = candidates.clone().nth(one)?;
    let (other, other_load) = candidates.nth(other)?;
    Some(if other_load < load { other } else { one })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chooses among candidates of these loads, where chance gives `draws`.
    fn chosen(loads: &[usize], draws: &[usize]) -> Option<usize> {
        let mut draws = draws.iter();
        least_of_two(loads.iter().copied().enumerate(), |below| {
            let drawn = *draws.next().expect("two draws at most");
            assert!(drawn < below);
            drawn
        })
    }

    #[test]
    fn the_less_loaded_of_two_at_random() {
        for (loads, draws, expected) in [
            (&[] as &[usize], &[] as &[usize], None),
            (&[7], &[], Some(0)),
            (&[1, 0], &[0, 0], Some(1)),
            (&[1, 0], &[1, 0], Some(1)),
            (&[0, 1], &[1, 0], Some(0)),
            // As much to do: the one that was drawn first, so that chance spreads them.
            (&[2, 2], &[0, 0], Some(0)),
            (&[2, 2], &[1, 0], Some(1)),
            // The least of all is not among the two.
            (&[5, 4, 0], &[0, 0], Some(1)),
            (&[5, 4, 0], &[0, 1], Some(2)),
            (&[5, 4, 0], &[2, 0], Some(2)),
        ] {
            assert_eq!(chosen(loads, draws), expected, "{loads:?} {draws:?}");
        }
    }

    #[test]
    fn never_the_same_one_twice() {
        for count in 2..6 {
            for one in 0..count {
                for other in 0..count - 1 {
                    // Whichever is drawn first is the busier.
                    let loads: Vec<usize> = (0..count).map(|i| usize::from(i == one)).collect();
                    assert_ne!(chosen(&loads, &[one, other]), Some(one));
                }
            }
        }
    }
}
