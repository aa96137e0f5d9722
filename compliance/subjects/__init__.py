"""What a patient may be told about the use of their chart, and everything that left the system."""
