// Requires every entry from CommonJS: possible as long as none has a top-level await.
(async () => {
  for (const entry of process.argv.slice(2)) {
    const required = require(entry);
    const imported = await import(entry);
    const differing = Object.keys(imported).filter((name) => required[name] !== imported[name]);
    if (differing.length > 0) throw new Error(`${entry}: ${differing} differ from what import gives`);
    console.log(`${entry}: ${Object.keys(required).length} names`);
  }
})();
