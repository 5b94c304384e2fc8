//! Sets of TCP ports, as written in `allow_ports` (`6000-7000,9000`).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// A set of TCP ports: sorted, disjoint, inclusive ranges within 1..=65535.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Every port from 1024 to 65535: those that belong to no well-known service of the machine.
    #[must_use]
    pub fn unprivileged() -> Self {
        Self(alloc::vec![(1024, u16::MAX)])
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

    /// Whether there is no port in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to `most` of its ports to try in this order, from a random one on, and those that browsers refuse last. Where
    /// the operating system may choose as well, it does: 0.
    #[must_use]
    pub fn pick(&self, random: u32, most: usize) -> VecDeque<u16> {
        if self.0.iter().any(|&(first, last)| first <= 1024 && last == u16::MAX) {
            return [0].into();
        }
        let total: u32 = self.0.iter().map(|&(first, last)| u32::from(last - first) + 1).sum();
        let mut skip = random.checked_rem(total).unwrap_or(0);
        let start = self.0.iter().position(|&(first, last)| {
            let found = skip <= u32::from(last - first);
            skip -= if found { 0 } else { u32::from(last - first) + 1 };
            found
        });
        let Some(start) = start else { return VecDeque::new() };
        let (before, behind) = self.0.split_at(start);
        let (first, last) = behind[0];
        let middle = u16::try_from(u32::from(first) + skip).expect("within the range");
        let first_part = (first < middle).then(|| (first, middle - 1));
        let order = [(middle, last)].into_iter().chain(behind[1..].iter().copied()).chain(before.iter().copied());
        let ports = order.chain(first_part).flat_map(|(first, last)| first..=last);
        let refused = ports.clone().filter(|&port| is_refused_by_browsers(port));
        ports.filter(|&port| !is_refused_by_browsers(port)).chain(refused).take(most).collect()
    }
}

/// Whether a port at one of these addresses may keep the same port at the other from being opened. `None` is the server's
/// own choice, which may be any.
#[must_use]
pub fn may_clash(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    let is_wide = |address: Option<IpAddr>| address.is_none_or(|address| address.is_unspecified());
    one == other || is_wide(one) || is_wide(other)
}

/// Whether browsers refuse to open a web page on this port: the "bad ports" of the Fetch standard, as of 2025.
#[must_use]
pub fn is_refused_by_browsers(port: u16) -> bool {
    BAD_PORTS.binary_search(&port).is_ok()
}

/// See [`is_refused_by_browsers`]. In ascending order.
const BAD_PORTS: [u16; 82] = [
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532,
    540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061,
    6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

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
    }

    fn pick(allowed: &str, random: u32, most: usize) -> Vec<u16> {
        allowed.parse::<PortSet>().unwrap().pick(random, most).into()
    }

    #[test]
    fn every_port_is_tried_once_from_a_random_one_on() {
        assert_eq!(pick("7000-7002", 5, 64), [7002, 7000, 7001]);
        assert_eq!(pick("7000-7001,8000,9000-9002", 2, 64), [8000, 9000, 9001, 9002, 7000, 7001]);
        assert_eq!(pick("7000-7001,8000,9000-9002", 4, 4), [9001, 9002, 7000, 7001]);
        assert_eq!(pick("7000", u32::MAX, 64), [7000]);
        assert_eq!(pick("2-60000", 7, 2), [10, 12], "9 and 11 are refused by browsers");
        assert!(PortSet::none().pick(3, 64).is_empty());
    }

    #[test]
    fn the_system_picks_where_it_may() {
        assert_eq!(PortSet::unprivileged().pick(7, 64), [0]);
        assert_eq!(pick("1-65535", 7, 64), [0]);
        assert_eq!(pick("1024-65534", 0, 1), [1024]);
        assert_eq!(pick("1025-65535", 0, 1), [1025]);
        assert!(PortSet::unprivileged().contains(u16::MAX) && !PortSet::unprivileged().contains(1023));
    }

    #[test]
    fn only_two_addresses_that_are_both_known_leave_each_other_their_ports() {
        let [one, other, all] = ["192.0.2.1", "2001:db8::1", "::"].map(|address| Some(address.parse().unwrap()));
        assert!(!may_clash(one, other));
        for (one, other) in [(one, one), (one, None), (all, other), (None, None)] {
            assert!(may_clash(one, other) && may_clash(other, one), "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_browsers_refuse_is_picked_last() {
        assert!(BAD_PORTS.is_sorted());
        assert!(is_refused_by_browsers(6000) && !is_refused_by_browsers(7000));
        for random in 0..11 {
            let picked = pick("6000-6010", random, 64);
            assert_eq!((picked.len(), picked.last()), (11, Some(&6000)));
            assert!(!pick("6000-6010", random, 10).contains(&6000));
        }
        assert_eq!(pick("6665-6669", 1, 64), [6666, 6667, 6668, 6669, 6665], "better than none");
        assert_eq!(pick("6000-6999", 664, 64).iter().filter(|port| is_refused_by_browsers(**port)).count(), 0);
    }
}
