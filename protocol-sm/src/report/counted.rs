//! What is only counted.

use core::hash::{Hash, Hasher};
use core::ops::{Deref, DerefMut};

/// What no decision depends on. Two drivers that differ in it alone are equal, so a search through their states does
/// not tell them apart.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted<T>(pub(crate) T);

impl<T> PartialEq for Counted<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Counted<T> {}

impl<T> Hash for Counted<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl<T> Deref for Counted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Counted<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
