//! A table whose keys carry a generation: a key of something removed never finds what came after it.

use alloc::vec::Vec;

/// A key: the index in the low, the generation in the high 32 bits. Also what readiness is reported as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl Token {
    fn new(index: usize, generation: u32) -> Self {
        let index = u32::try_from(index).expect("fewer than 2^32 sockets");
        Self(u64::from(generation) << 32 | u64::from(index))
    }

    fn index(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry<T> {
    key: Token,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Puts in what `make` returns for its key.
    pub(crate) fn insert_with<E>(&mut self, make: impl FnOnce(Token) -> Result<T, E>) -> Result<Token, E> {
        let index = match self.free.last() {
            Some(&index) => index,
            None => {
                self.entries.push(Entry { key: Token::new(self.entries.len(), 0), value: None });
                self.free.push(self.entries.len() - 1);
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[index];
        entry.value = Some(make(entry.key)?);
        self.free.pop();
        Ok(entry.key)
    }

    /// Takes out what `key` names, if it is still there.
    pub(crate) fn remove(&mut self, key: Token) -> Option<T> {
        let entry = self.entries.get_mut(key.index()).filter(|entry| entry.key == key)?;
        let value = entry.value.take()?;
        entry.key = Token(key.0.wrapping_add(1 << 32));
        self.free.push(key.index());
        Some(value)
    }

    pub(crate) fn get_mut(&mut self, key: Token) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index()).filter(|entry| entry.key == key)?;
        entry.value.as_mut()
    }

    /// Two different things at once.
    pub(crate) fn get_two(&mut self, a: Token, b: Token) -> Option<(&mut T, &mut T)> {
        let [x, y] = self.entries.get_disjoint_mut([a.index(), b.index()]).ok()?;
        if x.key != a || y.key != b {
            return None;
        }
        Some((x.value.as_mut()?, y.value.as_mut()?))
    }

    pub(crate) fn get(&self, key: Token) -> Option<&T> {
        let entry = self.entries.get(key.index()).filter(|entry| entry.key == key)?;
        entry.value.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.entries.iter().filter_map(|entry| Some((entry.key, entry.value.as_ref()?)))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Token> {
        self.entries.iter().filter(|entry| entry.value.is_some()).map(|entry| entry.key)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::default();
        let a = slab.insert_with(|_| Ok::<_, ()>('a')).unwrap();
        assert_eq!(slab.remove(a), Some('a'));
        let b = slab.insert_with(|_| Ok::<_, ()>('b')).unwrap();
        assert_eq!(a.index(), b.index());
        assert_eq!(slab.get_mut(a), None);
        assert_eq!(slab.remove(a), None);
        assert!(slab.insert_with(|_| Err('x')).is_err());
        let c = slab.insert_with(|_| Ok::<_, ()>('c')).unwrap();
        assert_eq!(slab.get_two(b, c), Some((&mut 'b', &mut 'c')));
        assert_eq!(slab.get_two(b, b), None);
        assert_eq!(slab.len(), 2);
    }
}
