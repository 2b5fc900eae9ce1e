//! How two files change places without losing an edit that falls in between (SPEC §4 step 7): what goes in and
//! what should come out are known before, and what did come out decides.

/// An exchange of the auth file with what lies beside it. `C` identifies content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Swap<C> {
    /// An edit that goes back, and not our own new bytes.
    pub back: bool,
    /// What the file is expected to hold before the exchange.
    pub expected: C,
    /// What goes in.
    pub goes_in: C,
}

impl<C: Copy + Eq> Swap<C> {
    /// After an exchange: the one that has to follow, if what came out is somebody's edit. It is newer than what
    /// went in, so it goes back. The same bytes once more are the same edit.
    pub fn came_out(self, content: C) -> Option<Self> {
        if content == self.expected || content == self.goes_in {
            return None;
        }
        Some(Self { back: true, expected: self.goes_in, goes_in: content })
    }

    /// After a crash: how what lies beside the file goes back into it; `None` if it may be forgotten.
    pub fn way_back(self, lies_there: C) -> Option<Self> {
        if lies_there == self.goes_in && lies_there != self.expected {
            // Not exchanged yet: our own bytes wait in their receipt, an edit has nowhere else to be.
            return self.back.then_some(self);
        }
        self.came_out(lies_there)
    }
}

#[cfg(test)]
mod tests {
    use super::Swap;

    #[test]
    fn an_edit_goes_back_and_our_own_bytes_do_not() {
        let ours = Swap { back: false, expected: 'a', goes_in: 'b' };
        assert_eq!(ours.came_out('a'), None);
        assert_eq!(ours.came_out('b'), None);
        let back = Swap { back: true, expected: 'b', goes_in: 'e' };
        assert_eq!(ours.came_out('e'), Some(back));

        assert_eq!(ours.way_back('a'), None, "exchanged, and nothing fell in between");
        assert_eq!(ours.way_back('b'), None, "never exchanged");
        assert_eq!(ours.way_back('e'), Some(back));

        assert_eq!(back.way_back('b'), None, "it is back");
        assert_eq!(back.way_back('e'), Some(back), "it never went");
        assert_eq!(back.way_back('f'), Some(Swap { back: true, expected: 'e', goes_in: 'f' }));
    }

    #[test]
    fn an_edit_of_the_same_bytes_is_no_edit() {
        let same = Swap { back: true, expected: 'a', goes_in: 'a' };
        assert_eq!((same.way_back('a'), same.came_out('a')), (None, None));
    }
}
