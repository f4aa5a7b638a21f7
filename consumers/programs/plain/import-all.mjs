// Imports every entry as an ES module, twice: each entry must be a single module.
const entries = process.argv.slice(2);
for (const entry of entries) {
  const names = Object.keys(await import(entry));
  if (names.length === 0) throw new Error(`${entry} exports nothing`);
  console.log(`${entry}: ${names.length} names`);
}
