//! Sets of TCP ports, as written in `allow_ports` (`6000-7000,9000`).

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// A set of TCP ports: sorted, disjoint, inclusive ranges within 1..=65535.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Every port from 1 to 65535.
    #[must_use]
    pub fn all() -> Self {
        Self(alloc::vec![(1, u16::MAX)])
    }

    /// No port at all; add ranges with [`PortSet::insert`].
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Adds the inclusive range `first..=last`.
    ///
    /// # Errors
    /// [`PortSetError::Zero`] if `first` is 0, [`PortSetError::Backwards`] if `first > last`.
    pub fn insert(&mut self, first: u16, last: u16) -> Result<(), PortSetError> {
        if first == 0 {
            return Err(PortSetError::Zero);
        }
        if first > last {
            return Err(PortSetError::Backwards);
        }
        self.0.push((first, last));
        self.0.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(self.0.len());
        for &(first, last) in &self.0 {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => {
                    previous.1 = previous.1.max(last);
                }
                Some(_) | None => merged.push((first, last)),
            }
        }
        self.0 = merged;
        Ok(())
    }

    /// Whether `port` is in the set. Port 0 never is.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&port))
    }

    /// The ranges, in ascending order.
    #[must_use]
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }
}

/// Why a text is not a set of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSetError {
    /// Not a number from 1 to 65535, nor two of them joined by `-`.
    NotAPort,
    /// Port 0 cannot be allowed.
    Zero,
    /// A range whose first port is larger than its last.
    Backwards,
}

impl fmt::Display for PortSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAPort => "expected a port (1-65535) or a range such as 6000-7000",
            Self::Zero => "port 0 cannot be allowed; ports are 1-65535",
            Self::Backwards => "the range's first port is larger than its last",
        })
    }
}

impl core::error::Error for PortSetError {}

impl FromStr for PortSet {
    type Err = PortSetError;

    /// Parses `6000-7000,9000`; spaces around items are allowed.
    fn from_str(text: &str) -> Result<Self, PortSetError> {
        let mut set = Self::none();
        for item in text.split(',') {
            let port = |t: &str| t.trim().parse::<u16>().map_err(|_| PortSetError::NotAPort);
            let (first, last) = match item.split_once('-') {
                Some((first, last)) => (port(first)?, port(last)?),
                None => (port(item)?, port(item)?),
            };
            set.insert(first, last)?;
        }
        Ok(set)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, &(first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn ranges_merge_and_print_as_written() {
        let set: PortSet = "9000, 6000-7000,7001-7005".parse().unwrap();
        assert_eq!(set.to_string(), "6000-7005,9000");
        assert!(set.contains(6000) && set.contains(7005) && set.contains(9000));
        assert!(!set.contains(5999) && !set.contains(7006) && !set.contains(0));
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!("".parse::<PortSet>(), Err(PortSetError::NotAPort));
        assert_eq!("1-2-3".parse::<PortSet>(), Err(PortSetError::NotAPort));
        assert_eq!("70000".parse::<PortSet>(), Err(PortSetError::NotAPort));
        assert_eq!("0".parse::<PortSet>(), Err(PortSetError::Zero));
        assert_eq!("9-8".parse::<PortSet>(), Err(PortSetError::Backwards));
        assert!(PortSet::all().contains(u16::MAX));
    }
}
