package daemon

// Helpers of the inner tests that the outer ones use too.
var WriteCertificate = writeCertificate
