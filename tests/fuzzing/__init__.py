"""`make fuzz`: whole inputs, valid and broken, thrown at the commands, which must end well or with a named error."""
