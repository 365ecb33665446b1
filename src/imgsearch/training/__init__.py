"""From labelled pictures to an encoder of one's own."""
