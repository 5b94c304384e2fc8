//! Who may be a client, told anew: which credential of the new list is which of the running server's.
//!
//! Sessions, tunnels and visitors are counted by the place of their credential, so a place belongs to one credential
//! for as long as the server runs.
//!
//! Invariants:
//! - C1 a credential that stays, by its name or under another one with a token that it had, keeps its place;
//! - C2 one that is gone keeps its place and its name, and has no tokens;
//! - C3 the tokens at all places are those of the new list.

use crate::reload::Changes;
use crate::settings::Credential;
use alloc::vec::Vec;

/// The credentials by their places, and which of them are new, gone or changed.
#[must_use]
pub fn follow(before: &[Credential], after: &[Credential]) -> (Vec<Credential>, Changes) {
    let mut changes = Changes { things: "client", ..Changes::default() };
    let mut places: Vec<_> = before.iter().map(|old| Credential { tokens: Vec::new(), ..old.clone() }).collect();
    for new in after {
        let named = before.iter().position(|old| old.name == new.name);
        let place = named.or_else(|| {
            let is_it = |old: &Credential| {
                let renamed = after.iter().all(|other| other.name != old.name);
                renamed && old.tokens.iter().any(|token| new.tokens.contains(token))
            };
            before.iter().enumerate().position(|(place, old)| places[place].tokens.is_empty() && is_it(old))
        });
        match place {
            Some(place) => {
                if before[place] == *new {
                    changes.unchanged += 1;
                } else if before[place].tokens.is_empty() {
                    changes.added.push(new.name.clone());
                } else {
                    changes.changed.push(new.name.clone());
                }
                places[place] = new.clone();
            }
            None => {
                changes.added.push(new.name.clone());
                places.push(new.clone());
            }
        }
    }
    let gone = before.iter().zip(&places).filter(|(old, now)| !old.tokens.is_empty() && now.tokens.is_empty());
    changes.removed = gone.map(|(old, _)| old.name.clone()).collect();
    (places, changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Scope, Token};

    fn credential(name: &str, tokens: &[&str]) -> Credential {
        let tokens = tokens.iter().map(|token| Token::new(token.as_bytes().to_vec())).collect();
        Credential { name: name.into(), tokens, scope: Scope::default() }
    }

    fn names(places: &[Credential]) -> Vec<(&str, usize)> {
        places.iter().map(|place| (place.name.as_str(), place.tokens.len())).collect()
    }

    #[test]
    fn c1_c2_places_stay_whatever_comes_and_goes() {
        let before = [credential("a", &["1"]), credential("b", &["2"]), credential("c", &["3"])];
        let after = [credential("d", &["4"]), credential("c", &["3"]), credential("a", &["1", "5"])];
        let (places, changes) = follow(&before, &after);
        assert_eq!(names(&places), [("a", 2), ("b", 0), ("c", 1), ("d", 1)]);
        assert_eq!((changes.added, changes.removed), (["d".into()].into(), ["b".into()].into()));
        assert_eq!((changes.changed, changes.unchanged), (["a".into()].into(), 1));
        let (places, changes) = follow(&places, &before);
        assert_eq!(names(&places), [("a", 1), ("b", 1), ("c", 1), ("d", 0)], "who comes back has its place again");
        assert_eq!((changes.added, changes.removed), (["b".into()].into(), ["d".into()].into()));
    }

    #[test]
    fn c1_a_new_name_for_the_same_token_is_no_other_client() {
        let before = [credential("a", &["1"]), credential("b", &["2"])];
        let (places, changes) = follow(&before, &[credential("new", &["0", "1"]), credential("b", &["2"])]);
        assert_eq!(names(&places), [("new", 2), ("b", 1)]);
        assert_eq!((changes.changed, changes.unchanged), (["new".into()].into(), 1));
        // A token that moves between two that both stay makes neither of them the other.
        let (places, _) = follow(&before, &[credential("b", &["1"]), credential("a", &["2"])]);
        assert_eq!(places, [credential("a", &["2"]), credential("b", &["1"])]);
    }

    #[test]
    fn c3_without_any_token_all_places_are_empty() {
        let (places, changes) = follow(&[credential("a", &["1"])], &[]);
        assert_eq!(names(&places), [("a", 0)]);
        assert_eq!(changes.removed, ["a"]);
    }
}
