export default { test: { globalSetup: './first.mjs' } };
